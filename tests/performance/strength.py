"""Strength of PGD on real MRI, ours and torchattacks', same network, volumes, eps, alpha and steps.

python tests/performance/strength.py --data-root DIR [--cases 40] [--model unet]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchattacks
from torch import Tensor

from robustvox.attacks import GN, PGD
from robustvox.benchmark.harness import derive_seed
from robustvox.benchmark.loading import ZOO
from robustvox.benchmark.metrics import score
from robustvox.datasets import open_dataset
from robustvox.models import SlidingWindow, load_checkpoint

EPS, STEPS = 8 / 255, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--model", default="unet")
    options = parser.parse_args()
    data = open_dataset("hippocampus", options.data_root)
    checkpoint = load_checkpoint(ZOO / "hippocampus" / f"{options.model}.safetensors")
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size)

    def theirs(alpha: float) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
        attack = torchattacks.PGD(predictor, eps=EPS, alpha=alpha, steps=STEPS, random_start=True)
        return lambda images, labels, _: attack(images, labels[:, 0])

    def ours(alpha: float | None, loss: str) -> Callable[[Tensor, Tensor, torch.Generator], Tensor]:
        attack = PGD(eps=EPS, alpha=alpha, steps=STEPS, loss=loss)
        return lambda images, labels, generator: attack(predictor, images, labels, generator=generator)

    attacks: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
        "clean": lambda images, *_: images,
        "gn sigma 8/255": lambda images, labels, generator: GN(std=EPS)(
            predictor, images, labels, generator=generator
        ),
        "pgd (default)": ours(None, "dice"),
        "pgd dice_ce": ours(None, "dice_ce"),
        "pgd ce": ours(None, "ce"),
        "torchattacks PGD alpha 2/255": theirs(2 / 255),
        "pgd alpha 0.01": ours(0.01, "dice"),
        "torchattacks PGD alpha 0.01": theirs(0.01),
    }
    scores: dict[str, list[float]] = {name: [] for name in attacks}
    for case in data.splits["validation"][: options.cases]:
        volume = data.load(case)
        images = torch.from_numpy(volume.image)[None]
        labels = torch.from_numpy(volume.label.astype(np.int64))[None, None]
        for name, attack in attacks.items():
            generator = torch.Generator().manual_seed(derive_seed(0, case))
            with torch.no_grad():
                prediction = (
                    predictor(attack_with_gradients(attack, images, labels, generator)).argmax(1)[0].numpy()
                )
            table = score(prediction, volume.label, num_classes=3, spacing_mm=volume.spacing_mm)
            scores[name].append(float(table["dice"].mean()))
    for name, values in scores.items():
        print(f"{name:30s} mean foreground Dice {np.mean(values):.4f} over {len(values)} patients")


@torch.enable_grad()
def attack_with_gradients(attack, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return attack(images, labels, generator)


if __name__ == "__main__":
    main()
