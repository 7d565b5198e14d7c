"""Measure what every switch of the protocols does to the reported numbers, and write the tables of protocols.md.

python docs/build_protocols.py --measure phantom --cases 4 --steps 10
python docs/build_protocols.py --measure hippocampus --data-root DIR --cases 4 --steps 10
python docs/build_protocols.py

The first two append to docs/protocols.csv, one row per case, protocol, attack and scored model; what is there is not
measured again, so they may be interrupted. The last one sorts that file and writes the tables from it. Every attack of a case draws from one
seed, so that two rows differ by the switch and not by the random start; a volume that two protocols share is
crafted once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from robustvox.benchmark.craft.crafting import derive_seed
from robustvox.benchmark.craft.named import NamedModel, predict
from robustvox.benchmark.craft.view import attack_view, tiles, truncate
from robustvox.benchmark.harness.scoring import Scorer
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.specs.protocols import PROTOCOLS, SWITCHES, Protocol, find_protocol
from robustvox.datasets import open_dataset
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

PAGE = Path(__file__).resolve().parent / "protocols.md"
NUMBERS = PAGE.with_suffix(".csv")
COLUMNS = ("dataset", "case", "steps", "protocol", "scored_as", "attack", "target", "dice", "hd95")
ATTACKS = ("pgd", "cospgd", "vafa")
VIEWED = ("pgd",)
SURROGATE, OTHER = "unet", "segresnet"
BEGIN, END = "<!-- tables: python docs/build_protocols.py -->", "<!-- end of the tables -->"


def variants() -> Iterator[Protocol]:
    """Both protocols, each followed by its variants with one switch turned."""
    for base in PROTOCOLS.values():
        yield base
        for switch in SWITCHES:
            yield find_protocol(f"{base.name}:{switch}={str(not getattr(base, switch)).lower()}")


Job = tuple[str, str, str, str]
"""Protocol that attacks, protocol that scores, attack, scored model."""


def views() -> list[Job]:
    """End-to-end and tiled attacks, all scored as robustvox-1 does."""
    ours = "robustvox-1"
    rivals = ((ours, ours), (f"{ours}:tiling=true", f"{ours}:tiling=true"), ("bmvc2024", ours))
    return [(*rival, attack, SURROGATE) for attack in VIEWED for rival in rivals]


def effects() -> list[Job]:
    """Every protocol and variant, each scored as it says."""
    kinds = [("none", SURROGATE), *((attack, SURROGATE) for attack in ATTACKS), ("pgd", OTHER)]
    return [(protocol.name, protocol.name, *kind) for protocol in variants() for kind in kinds]


class Case:
    """One case of a dataset: every volume is crafted once and predicted once, whoever asks."""

    def __init__(self, dataset: Any, case: str, steps: int) -> None:
        self.dataset, self.steps = dataset, steps
        self.volume = dataset.load(case)
        self.images = torch.from_numpy(self.volume.image)[None]
        self.labels = torch.from_numpy(self.volume.label.astype(np.int64))[None, None]
        self._crafted: dict[tuple, torch.Tensor] = {}
        self._predicted: dict[tuple, np.ndarray] = {}

    def row(self, job: Job) -> dict[str, Any]:
        """The measured row of one job."""
        crafted_as, scored_as, attack, target = job
        protocol, scoring = find_protocol(crafted_as), find_protocol(scored_as)
        key = ("none",) if attack == "none" else self._key(protocol, attack)
        if key not in self._crafted:
            self._crafted[key] = self.images if attack == "none" else self._craft(protocol, attack)
        truncated = protocol.uint8 and target != SURROGATE
        where = (key, target, scoring.mode, truncated)
        if where not in self._predicted:
            images = truncate(self._crafted[key]) if truncated else self._crafted[key]
            predictor = predictors(self.dataset.name, target, scoring.mode)
            self._predicted[where] = predict(NamedModel(target, "", predictor), images)
        scorer = Scorer(
            scoring,
            self.volume,
            num_classes=len(self.dataset.class_names),
            nsd_tolerance_mm=self.dataset.nsd_tolerance_mm,
        )
        table = scorer(self._predicted[where])
        values = (self.dataset.name, self.volume.id, self.steps, *job)
        return dict(zip(COLUMNS, (*values, table["dice"].mean(), table["hd95_mm"].mean()), strict=True))

    def _key(self, protocol: Protocol, attack: str) -> tuple:
        """What a crafted volume depends on; in one window all views are the same."""
        roi_size = predictors(self.dataset.name, SURROGATE, protocol.mode).roi_size
        single = len(tiles(self.volume.label.shape, roi_size)) == 1
        view = "one window" if single else "tiles" if protocol.tiling else protocol.mode
        return view, load_attack(f"{attack}:steps={self.steps}", protocol).spec

    def _craft(self, protocol: Protocol, attack: str) -> torch.Tensor:
        predictor = predictors(self.dataset.name, SURROGATE, protocol.mode)
        named = load_attack(f"{attack}:steps={self.steps}", protocol)
        generator = torch.Generator().manual_seed(derive_seed(0, self.dataset.name, self.volume.id))
        return attack_view(protocol, named.attack, predictor)(
            predictor, self.images, self.labels, generator=generator
        )


@cache
def predictors(dataset: str, model: str, mode: str) -> SlidingWindow:
    """A network of the zoo under one blending of windows."""
    loaded = load_checkpoint(ZOO / dataset / f"{model}.safetensors")
    return SlidingWindow(loaded.network, loaded.card.roi_size, 0.5, 4, mode).eval()


def measure(name: str, data_root: Path | None, cases: int, steps: int) -> None:
    """Append the rows that are missing: the views of all cases first, then everything, case by case."""
    dataset = open_dataset(name, data_root)
    loaded = cache(lambda case: Case(dataset, case, steps))
    for jobs in (views(), effects()):
        for case in dataset.splits["validation"][:cases]:
            known = {tuple(row) for row in numbers()[list(COLUMNS[:-2])].itertuples(index=False)}
            for job in jobs:
                if (name, case, steps, *job) in known:
                    continue
                row = pd.DataFrame([loaded(case).row(job)], columns=list(COLUMNS))
                row.to_csv(NUMBERS, mode="a", header=not NUMBERS.exists(), index=False, lineterminator="\n")
            sys.stderr.write(f"{name} {case}: {len(jobs)} rows\n")


def exact(text: str) -> float:
    """A number to its last bit, which pandas' own parser may lose."""
    return float(text or "nan")


def numbers() -> pd.DataFrame:
    """What was measured so far, sorted."""
    table = (
        pd.read_csv(NUMBERS, converters=dict.fromkeys(COLUMNS[-2:], exact))
        if NUMBERS.exists()
        else pd.DataFrame(columns=list(COLUMNS))
    )
    order = {job: index for index, job in enumerate([*effects(), *views()])}
    place = [order.get(tuple(job), len(order)) for job in table[list(COLUMNS[3:-2])].itertuples(index=False)]
    return table.assign(place=place).sort_values(
        ["dataset", "steps", "case", "place"], kind="stable", ignore_index=True
    ).drop(columns="place")  # fmt: skip


def complete(rows: pd.DataFrame, jobs: list[Job]) -> pd.DataFrame:
    """The rows of these jobs, of the cases that have them all."""
    wanted = set(jobs)
    chosen = rows[[tuple(job) in wanted for job in rows[list(COLUMNS[3:-2])].itertuples(index=False)]]
    counts = chosen.groupby("case").size()
    return chosen[chosen["case"].isin(counts[counts == len(wanted)].index)]


def tables(measured: pd.DataFrame) -> str:
    """The Markdown between the markers of the page."""
    return "\n\n".join(
        block
        for name, rows in measured.groupby("dataset", sort=False)
        for block in (
            _effects(str(name), complete(rows, effects())),
            _views(str(name), complete(rows, views())),
        )
        if block
    )


def _effects(name: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    means = rows.groupby(["protocol", "attack", "target"])[["dice", "hd95"]].mean()
    headings = ("protocol", "clean", *(a.upper() if a != "cospgd" else "CosPGD" for a in ATTACKS))
    lines = [
        f"**{name}**, {_sample(rows)}; mean Dice, HD95 in parentheses (mm, or voxels where `voxel_hd95` is on); `=` "
        "is the number of the protocol itself.",
        "",
        f"| {' | '.join((*headings, f'PGD, transfer to {OTHER}'))} |",
        f"| --- |{' ---: |' * (len(headings))}",
    ]
    for protocol in variants():
        base = protocol.name.partition(":")[0]
        cells = [
            _cell(means, protocol.name, base, attack, target)
            for attack, target in (("none", SURROGATE), *((a, SURROGATE) for a in ATTACKS), ("pgd", OTHER))
        ]
        shown = f"**`{base}`**" if protocol.name == base else f"`{protocol.name.partition(':')[2]}`"
        lines.append(f"| {' | '.join((shown, *cells))} |")
    return "\n".join(lines)


def _cell(means: pd.DataFrame, protocol: str, base: str, attack: str, target: str) -> str:
    def shown(name: str) -> str:
        row = means.loc[(name, attack, target)]
        return f"{row['dice']:.3f} ({row['hd95']:.1f})"

    return "=" if protocol != base and shown(protocol) == shown(base) else shown(protocol)


def _views(name: str, rows: pd.DataFrame) -> str:
    """End-to-end and tiled attacks, both scored as robustvox-1 does, where a volume has more than one tile."""
    if rows.empty:
        return ""
    cases = rows.pivot_table(
        index="case", columns=["protocol", "scored_as", "attack", "target"], values="dice"
    )
    ours = "robustvox-1"
    tiled = f"{ours}:tiling=true"
    if np.allclose(cases[ours, ours, "pgd", SURROGATE], cases[tiled, tiled, "pgd", SURROGATE], atol=1e-9):
        return ""
    lines = [
        f"**{name}**, attacks alone, all scored as `{ours}` does; {_sample(rows)}; mean Dice left by the end-to-end attack "
        "and by tiled ones, and in how many cases end-to-end leaves no more.",
        "",
        "| attack | end to end | the same, tiled | as in `bmvc2024` | no weaker than tiled | than `bmvc2024` |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for attack in VIEWED:
        end = cases[ours, ours, attack, SURROGATE]
        others = cases[tiled, tiled, attack, SURROGATE], cases["bmvc2024", ours, attack, SURROGATE]
        wins = [f"{int((end <= other).sum())} of {len(end)}" for other in others]
        means = [f"{column.mean():.3f}" for column in (end, *others)]
        lines.append(f"| `{attack}` | {' | '.join((*means, *wins))} |")
    return "\n".join(lines)


def _sample(rows: pd.DataFrame) -> str:
    count = rows["case"].nunique()
    return (
        f"n = {count} validation case{'s' if count > 1 else ''}, small `{SURROGATE}` of the zoo, "
        f"{rows['steps'].iloc[0]} steps, eps 8/255, q_max 20"
    )


def page(text: str, measured: pd.DataFrame) -> str:
    """The page with its tables replaced."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{tables(measured)}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", metavar="DATASET")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.data_root, options.cases, options.steps)
    else:
        measured = numbers()
        measured.to_csv(NUMBERS, index=False, lineterminator="\n")
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
