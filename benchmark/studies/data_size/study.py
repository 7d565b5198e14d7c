"""Networks trained on nested sets of patients, and how they score clean and attacked."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from robustvox.attacks import PGD
from robustvox.datasets import Dataset, Volume, patient_of
from robustvox.datasets.phantom import Phantom
from robustvox.models import SlidingWindow, load_checkpoint

from ...craft.crafting import labelled, noise_generator
from ...specs.spec import Spec
from ...training.card import mean_dice
from ...training.recipe import Progress, Recipe
from ...training.train import train
from ..stealing.cast import Part

EPS, STEPS = 8 / 255, 20
"""Of the PGD that every network meets."""


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        model: architecture.
        patients: how many it was trained on.
        phantoms: how many phantoms it was trained on before; 0 for random weights.
        seed: of the training.
    """

    model: str
    patients: int
    phantoms: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """As a file."""
        before = f".after{self.phantoms}" if self.phantoms else ""
        return f"{self.model}.{self.patients}{before}.seed{self.seed}"


@dataclass(frozen=True)
class CaseScore:
    """A network on one case: mean foreground Dice in [0, 1] without attack and under PGD."""

    model: str
    patients: int
    phantoms: int
    seed: int
    case: str
    patient: str
    dice_clean: float
    dice_pgd: float


COLUMNS = tuple(field.name for field in fields(CaseScore))


def nested(cases: Sequence[str], count: int, patients: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The cases of the first ``count`` patients in the order of their hash: a smaller set is part of every larger one.

    Raises:
        ValueError: there are not so many patients.

    Example:
        >>> set(nested("abcdef", 2)) < set(nested("abcdef", 4))
        True
    """
    whose = {case: (patients or {}).get(case, case) for case in cases}
    order = sorted(set(whose.values()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(order) < count:
        raise ValueError(f"expected {count} patients to train on, found {len(order)}; ask for fewer")
    chosen = set(order[:count])
    return tuple(case for case in cases if whose[case] in chosen)


@dataclass(frozen=True, kw_only=True)
class DataSizeStudy:
    """Trainings of equal length on sets of patients of different size.

    Args:
        dataset: whose train split is cut.
        folder: where checkpoints are kept; finished ones are not trained again.
        recipe: of every training on patients; the pre-training has as many steps.
        cases: that are scored, of the validation split, none of which chooses anything.
        device: where to train.
        on_step: called after every step of a training with the arm's name.
    """

    dataset: Dataset
    folder: Path
    recipe: Recipe
    cases: tuple[str, ...]
    device: str = "cpu"
    on_step: Callable[[str, Progress], None] | None = None

    def checkpoint(self, arm: Arm) -> Path:
        """The trained network of an arm, trained now where it is not there."""
        path = self.folder / f"{arm.name}.safetensors"
        if not path.exists():
            whose = {case: patient_of(self.dataset, case) for case in self.dataset.splits["train"]}
            chosen = nested(self.dataset.splits["train"], arm.patients, whose)
            part = Part(self.dataset, chosen, tuple(self.dataset.splits["validation"]))
            self._train(arm, part, path, self._phantoms(arm) if arm.phantoms else None)
        return path

    def _phantoms(self, arm: Arm) -> Path:
        """The network of the same architecture and seed, trained on phantoms with the window of the patients."""
        path = self.folder / f"{arm.model}.phantoms{arm.phantoms}.seed{arm.seed}.safetensors"
        if not path.exists():
            self._train(arm, Phantom(train=arm.phantoms, validation=4), path, None)
        return path

    def _train(self, arm: Arm, dataset: Dataset, path: Path, pretrained: Path | None) -> None:
        told = self.on_step
        train(
            Spec.parse(arm.model),
            dataset,
            path=path,
            recipe=self.recipe,
            seed=arm.seed,
            device=self.device,
            pretrained=pretrained,
            roi_size=self.dataset.roi_size,
            on_step=None if told is None else lambda step: told(path.stem, step),
            state=path.with_name(f"{path.name}.state"),
        )

    def score(self, arm: Arm) -> Iterator[CaseScore]:
        """The scores of an arm, case by case."""
        loaded = load_checkpoint(self.checkpoint(arm), Spec.parse(arm.model).name)
        predictor = SlidingWindow(loaded.network, loaded.card.roi_size, overlap=0.5).to(self.device).eval()
        for case in self.cases:
            volume = self.dataset.load(case)
            clean, attacked = self._dice(predictor, volume)
            yield CaseScore(
                **asdict(arm),
                case=case,
                patient=patient_of(self.dataset, case),
                dice_clean=clean,
                dice_pgd=attacked,
            )

    def _dice(self, predictor: SlidingWindow, volume: Volume) -> tuple[float, float]:
        images = torch.from_numpy(volume.image)[None].to(self.device)
        labels = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(self.device)
        stream = noise_generator(0, self.dataset.name, volume.id, f"pgd:eps=8/255,steps={STEPS}")
        attacked = PGD(eps=EPS, steps=STEPS)(
            predictor, images, labels, mask=labelled(volume, self.device), generator=stream
        )
        scores = []
        for seen in (images, attacked):
            with torch.inference_mode():
                found = predictor(seen).argmax(1)[0].cpu().numpy()
            found = found if volume.ignore is None else np.where(volume.ignore, 0, found)
            scores.append(mean_dice(found, volume.label, len(self.dataset.class_names)))
        return scores[0], scores[1]


def read_scores(path: Path) -> list[CaseScore]:
    """The rows of a file, none where there is no file."""
    if not path.is_file():
        return []
    kinds = {"patients": int, "phantoms": int, "seed": int, "dice_clean": float, "dice_pgd": float}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            CaseScore(**{name: kinds.get(name, str)(row[name]) for name in COLUMNS})
            for row in csv.DictReader(file)
        ]


def add_scores(path: Path, rows: Sequence[CaseScore]) -> None:
    """Append an arm's rows; all of them, or none where the arm was cut short."""
    fresh = not path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        for row in rows:
            shown = {n: f"{v:.6f}" if isinstance(v, float) else v for n, v in asdict(row).items()}
            writer.writerow(shown)
