"""Strength of the attacks on real MRI, all on the same network and volumes: the figures of the attack suite.

    python tests/performance/strength.py --data-root DIR [--cases 40] [--model unet] [--only pgd --only apgd]

Prints the mean foreground Dice that every attack leaves, what the suite promises about them, and, where the
package is installed, torchattacks' PGD beside ours. Every attack draws from the same seed per patient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustvox.attacks import APGD, GN, MIFGSM, PGD, Attack, CosPGD, Ensemble, SegPGD
from robustvox.benchmark.craft.crafting import derive_seed
from robustvox.benchmark.metrics.scores import score
from robustvox.datasets import open_dataset
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
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first patients")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--only", action="append", help="name of a contender; may repeat")
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
