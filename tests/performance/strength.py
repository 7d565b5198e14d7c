"""Strength of the attacks on real MRI, all on the same network and volumes: the figures of the attack suite.

    python tests/performance/strength.py --data-root DIR [--cases 40] [--model unet] [--only pgd --only apgd]

Prints the mean foreground Dice that every attack leaves, what the suite promises about them, and, where the
package is installed, torchattacks' PGD beside ours. Every attack draws from the same seed per patient.

    python tests/performance/strength.py --data-root DIR --model all --cases 2 --rows FILE.csv [--known results]

holds the ensemble against attacks that share no code with ours, `long_attacks.py`: 400 steps each, the natural networks,
the cheap ones first. A row goes to the file when it is done, and what the file holds is not computed again. `--known`
takes what the ensemble leaves from records of the same network, data and seed; without it the ensemble runs too.
`--render FILE.csv` only prints the table.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from long_attacks import INDEPENDENT, climb, soft_dice
from torch import Tensor

from robustvox.attacks import APGD, GN, MIFGSM, PGD, Attack, CosPGD, Ensemble, SegPGD
from robustvox.benchmark.craft.crafting import derive_seed
from robustvox.benchmark.metrics.scores import score
from robustvox.benchmark.records import load_records
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.benchmark.show.tables.markup import markdown_table
from robustvox.datasets import Volume, open_dataset
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

EPS, STEPS = 8 / 255, 20


class Doubled(Ensemble):
    """The ensemble with twice the steps in every member: what it would gain from more time."""

    def members(self) -> tuple[Attack, ...]:
        return tuple(_twice(member) for member in super().members())


def _twice(member: Any) -> Attack:
    field = "steps" if hasattr(member, "steps") else "queries"
    return replace(member, **{field: 2 * getattr(member, field)})


def contenders() -> dict[str, Any]:
    """Name to attack; a string stands for an attack of torchattacks."""
    return {
        "gn sigma 8/255": GN(std=EPS),
        "pgd": PGD(eps=EPS, steps=STEPS),
        "pgd dice_ce": PGD(eps=EPS, steps=STEPS, loss="dice_ce"),
        "pgd ce": PGD(eps=EPS, steps=STEPS, loss="ce"),
        "mifgsm": MIFGSM(eps=EPS, steps=STEPS),
        "cospgd": CosPGD(eps=EPS, steps=STEPS),
        "segpgd": SegPGD(eps=EPS, steps=STEPS),
        "torchattacks pgd 2/255": 2 / 255,
        "torchattacks pgd 0.01": 0.01,
        "pgd 100": PGD(eps=EPS, steps=100),
        "apgd 100": APGD(eps=EPS, steps=100),
        **{f"member {index}": member for index, member in enumerate(Ensemble(eps=EPS).members())},
        "ensemble": Ensemble(eps=EPS),
        "ensemble doubled": Doubled(eps=EPS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first patients")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--only", action="append", help="name of a contender; may repeat")
    parser.add_argument("--rows", type=Path, metavar="CSV", help="run the independent attacks; rows go here")
    parser.add_argument("--known", type=Path, metavar="DIR", help="records that hold the ensemble's rows")
    parser.add_argument("--seeds", type=int, default=1, help="starts of every independent attack")
    parser.add_argument("--render", type=Path, metavar="CSV", help="print the table of such rows")
    options = parser.parse_args()
    if options.render:
        print(comparison(read(options.render)), end="")
        return
    if options.data_root is None:
        parser.error("--data-root is missing")
    if options.rows:
        measure(options)
        return
    data = open_dataset("hippocampus", options.data_root)
    checkpoint = load_checkpoint(ZOO / "hippocampus" / f"{options.model}.safetensors")
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size).eval()
    chosen = {name: attack for name, attack in contenders().items() if name in (options.only or [name])}

    dice: dict[str, list[float]] = {name: [] for name in ["clean", *chosen]}
    seconds = dict.fromkeys(chosen, 0.0)
    for case in data.splits["validation"][options.skip : options.skip + options.cases]:
        volume = data.load(case)
        images = torch.from_numpy(volume.image)[None]
        labels = torch.from_numpy(volume.label.astype(np.int64))[None, None]

        def left(adversarial: Tensor, volume=volume) -> float:
            with torch.no_grad():
                prediction = predictor(adversarial).argmax(1)[0].numpy()
            table = score(prediction, volume.label, num_classes=3, spacing_mm=volume.spacing_mm)
            return float(table["dice"].mean())

        dice["clean"].append(left(images))
        for name, attack in chosen.items():
            begin = time.process_time()
            generator = torch.Generator().manual_seed(derive_seed(0, case))
            run = theirs(predictor, attack) if isinstance(attack, float) else attack.bind(predictor)
            dice[name].append(left(run(images, labels, generator=generator)))
            seconds[name] += time.process_time() - begin
        print(case, " ".join(f"{name}={values[-1]:.4f}" for name, values in dice.items()), flush=True)
    report(dice, seconds)


def theirs(model: torch.nn.Module, alpha: float) -> Callable[..., Tensor]:
    """PGD of torchattacks with the same eps and steps, on cross entropy."""
    import torchattacks

    attack = torchattacks.PGD(model, eps=EPS, alpha=alpha, steps=STEPS, random_start=True)

    def run(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        torch.manual_seed(generator.initial_seed() % 2**32)
        with torch.enable_grad():
            return attack(images, labels[:, 0])

    return run


def report(dice: dict[str, list[float]], seconds: dict[str, float]) -> None:
    """Means, and every promise whose contenders ran."""
    mean = {name: float(np.mean(values)) for name, values in dice.items()}
    patients = len(dice["clean"])
    for name, value in mean.items():
        cost = f"{seconds[name] / patients:7.1f} s CPU" if name in seconds else ""
        print(f"{name:24s} mean foreground Dice {value:.4f} over {patients} patients {cost}")
    if {"pgd", "ensemble"} <= mean.keys():
        print(f"ensemble / pgd {mean['ensemble'] / mean['pgd']:.3f}, promised <= 0.94")
    if {"ensemble", "ensemble doubled"} <= mean.keys():
        print(f"ensemble - doubled {mean['ensemble'] - mean['ensemble doubled']:.4f}, promised < 0.005")
    if {"pgd 100", "apgd 100"} <= mean.keys():
        print(f"apgd - pgd at 100 steps {mean['apgd 100'] - mean['pgd 100']:+.4f}, promised <= 0")
    for name in ("cospgd", "segpgd"):
        if {name, "pgd ce"} <= mean.keys():
            print(f"{name} - pgd ce {mean[name] - mean['pgd ce']:+.4f}, promised <= 0.02")
    members = [name for name in dice if name.startswith("member")]
    if members and "ensemble" in dice:
        worst = np.min([dice[name] for name in members], axis=0)
        print(f"ensemble - its best member, largest over patients {np.max(dice['ensemble'] - worst):+.6f}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one attack leaves of one patient; `cpu_seconds` is empty where the number comes from a record."""

    model: str
    case: str
    attack: str
    seed: int
    dice: float
    cpu_seconds: str


def measure(options: argparse.Namespace) -> None:
    """Every row that the file lacks: the ensemble's first, then attack by attack, the cheap networks first."""
    data = open_dataset("hippocampus", options.data_root)
    cases = data.splits["validation"][options.skip : options.skip + options.cases]
    volumes = {case: data.load(case) for case in cases}
    seconds = {name: one_gradient(name, volumes[cases[0]]) for name in networks(options.model)}
    known = None if options.known is None else load_records(options.known / "hippocampus" / "records")
    chosen = [name for name in ("ensemble", *INDEPENDENT) if name in (options.only or [name])]
    done = {(row.attack, row.case, row.model, row.seed) for row in read(options.rows)}
    order = product(chosen, cases, sorted(seconds, key=seconds.__getitem__))
    wanted = [(*key, lacking(key, options.seeds, done)) for key in order if lacking(key, options.seeds, done)]
    costs = [cost(attack, seconds[model], seeds, known) for attack, _, model, seeds in wanted]
    begin = time.time()
    for index, (attack, case, model, seeds) in enumerate(wanted):
        if attack == "ensemble" and known is not None:
            rows = [recorded(known, model, volumes[case])]
        else:
            rows = attacked(model, volumes[case], attack, seeds)
        append(options.rows, rows)
        spent, rest = sum(costs[: index + 1]), sum(costs[index + 1 :])
        left = f"{rest / spent * (time.time() - begin) / 60:.0f} min left" if spent else ""
        found = " ".join(f"{row.dice:.4f}" for row in rows)
        print(f"{time.strftime('%H:%M')} {attack} | {case} | {model}: {found}  {left}", flush=True)
    print(comparison(read(options.rows)))


def networks(model: str) -> list[str]:
    """One natural network of the zoo, or all."""
    names = sorted(path.stem for path in (ZOO / "hippocampus").glob("*.safetensors"))
    return [name for name in names if "." not in name] if model == "all" else [model]


def loaded(model: str, volume: Volume) -> tuple[SlidingWindow, Tensor, Tensor]:
    """A frozen network in its window, an image (1, C, x, y, z) and its label (1, x, y, z)."""
    checkpoint = load_checkpoint(ZOO / "hippocampus" / f"{model}.safetensors")
    network = SlidingWindow(checkpoint.network, checkpoint.card.roi_size).eval().requires_grad_(False)
    return (
        network,
        torch.from_numpy(volume.image)[None],
        torch.from_numpy(volume.label.astype(np.int64))[None],
    )


def one_gradient(model: str, volume: Volume) -> float:
    """Its CPU seconds."""
    network, image, label = loaded(model, volume)
    begin = time.process_time()
    image.requires_grad_()
    torch.autograd.grad(soft_dice(network(image), label).sum(), image)
    return time.process_time() - begin


def lacking(key: tuple[str, str, str], seeds: int, done: set[tuple[str, str, str, int]]) -> list[int]:
    """Seeds of an attack, case and network that there are no rows of yet; the ensemble has one seed, as its records."""
    return [seed for seed in range(1 if key[0] == "ensemble" else seeds) if (*key, seed) not in done]


def cost(attack: str, seconds: float, seeds: list[int], known: Any) -> float:
    """CPU seconds that rows may take."""
    if attack == "ensemble":
        return 500 * seconds if known is None else 0.0
    return INDEPENDENT[attack].steps * seconds * len(seeds)


def recorded(known: Any, model: str, volume: Volume) -> Row:
    """What the ensemble left of this patient by the records, which must be of this network and this volume."""
    sha256 = load_checkpoint(ZOO / "hippocampus" / f"{model}.safetensors").sha256
    costs, scores = known.costs, known.scores
    asked = (costs.attack == "ensemble:eps=8/255") & (costs.seed == 0) & (costs.case == volume.id)
    same = (costs.surrogate_sha256 == sha256) & (costs.target_sha256 == sha256)
    units = costs[asked & same & (costs.data_sha256 == data_fingerprint(volume))].unit
    if len(units) != 1:
        raise SystemExit(f"--known: expected one row of ensemble, {model}, {volume.id}, found {len(units)}")
    dice = float(scores[scores.unit == units.iloc[0]].dice.mean())
    return Row(model=model, case=volume.id, attack="ensemble", seed=0, dice=dice, cpu_seconds="")


def attacked(model: str, volume: Volume, attack: str, seeds: list[int]) -> list[Row]:
    """A row per seed: the mean foreground Dice by the harness's metric."""
    network, image, label = loaded(model, volume)
    begin = time.process_time()
    if attack == "ensemble":
        generator = torch.Generator().manual_seed(derive_seed(0, volume.id))
        found = Ensemble(eps=EPS)(network, image, label[None], generator=generator)
    else:
        starts = [derive_seed(seed, volume.id) for seed in seeds]
        found = climb(network, image, label, INDEPENDENT[attack], eps=EPS, seeds=starts)
    took = f"{(time.process_time() - begin) / len(found):.0f}"
    away = float((found - image).abs().max())
    if not away <= EPS + 1e-6:
        raise SystemExit(f"{attack}: expected changes of at most {EPS:.6f}, found {away:.6f}")
    with torch.no_grad():
        answers = network(found).argmax(1).numpy()
    given = {"model": model, "case": volume.id, "attack": attack, "cpu_seconds": took}
    return [Row(seed=s, dice=left(a, volume), **given) for s, a in zip(seeds, answers, strict=True)]


def left(answer: np.ndarray, volume: Volume) -> float:
    """Mean foreground Dice."""
    found = score(answer, volume.label, num_classes=3, spacing_mm=volume.spacing_mm)
    return float(found["dice"].mean())


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is none yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Row(**{**row, "seed": int(row["seed"]), "dice": float(row["dice"])}) for row in rows]


def append(path: Path, rows: list[Row]) -> None:
    """Add rows to the end; the first ones bring the header."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**asdict(row), "dice": f"{row.dice:.6f}"} for row in rows)


def comparison(rows: list[Row]) -> str:
    """Per network and patient what the ensemble leaves, every other attack at its best seed, and how the best compares."""
    lowest: dict[tuple[str, str, str], float] = {}
    for row in rows:
        key = (row.model, row.case, row.attack)
        lowest[key] = min(row.dice, lowest.get(key, math.inf))
    lines = []
    cases = sorted({row.case for row in rows})
    for model, case in product(dict.fromkeys(row.model for row in rows), cases):
        here = {name: lowest[model, case, name] for name in INDEPENDENT if (model, case, name) in lowest}
        ours = lowest.get((model, case, "ensemble"), math.nan)
        cells = [f"{here[name]:.3f}" if name in here else "not run" for name in INDEPENDENT]
        gap = f"{ours - min(here.values()):+.3f}" if here else "not run"
        lines.append([model, case.split("_")[-1], f"{ours:.3f}", *cells, gap])
    return markdown_table(
        ["network", "patient", "ensemble", *INDEPENDENT, "ensemble - best of the others"], lines
    )


if __name__ == "__main__":
    main()
