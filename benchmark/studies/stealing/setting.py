"""The setting of the experiment: who is the victim, what the thief has, and the copies it made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.datasets import Dataset, Volume
from robustvox.datasets.scanner import ScannerShift
from robustvox.models import Checkpoint, SlidingWindow, load_checkpoint, read_card

from ...specs.spec import Spec
from ...training.recipe import Recipe
from ...training.train import train
from .calibration import Calibration
from .cast import Cast, Part, cast_roles, trained_on
from .copies import Copy, load_copy, save_copy, train_on_truth
from .port import QueryPort
from .scans import Scan, texture_phantoms
from .thefts import Theft
from .thief import Steal


@dataclass(frozen=True, kw_only=True)
class Study:
    """What decides the experiment.

    Args:
        model: spec of the victim.
        shift: scanner B.
        steal: the plain thief; its seed is replaced by each of ``seeds``.
        seeds: one theft of each kind per seed.
        victim_cases: how many cases of the training split the victim is trained on.
        victim_steps: optimizer steps of the victim; as the zoo's networks, unless told otherwise. One of 400 steps is
            less sharp, knows more of raw scans, and so makes a theft without calibration look better than it is.
        checkpoint: a trained victim in place of training one.
        pool, reference, test: how many patients of the thief, how many public volumes, how many to measure on.
        curve: smaller budgets.
        eps: radii of the attacks.
        attack_steps: of ``pgd`` and ``smooth``.
        others: zoo checkpoints ``NAME`` of other architectures, trained on true labels, as surrogates.
        roi_size: window of victim and copy; None is the dataset's.
        full: also the thefts that answer finer questions, see :func:`.thefts.thefts`.

    Raises:
        ValueError: if the thief has fewer patients than queries, or for a negative seed.
    """

    model: str = "unet:num_res_units=0,size=small"
    shift: ScannerShift = field(default_factory=lambda: ScannerShift(edge=6.0))
    steal: Steal = field(default_factory=Steal)
    seeds: tuple[int, ...] = (0,)
    victim_cases: int = 100
    victim_steps: int = Recipe.steps
    checkpoint: Path | None = None
    pool: int = 60
    reference: int = 5
    test: int = 12
    curve: tuple[int, ...] = (10, 19)
    eps: tuple[float, ...] = (8 / 255, 16 / 255)
    attack_steps: int = 10
    others: tuple[str, ...] = ("segresnet",)
    roi_size: tuple[int, ...] | None = None
    full: bool = False

    def __post_init__(self) -> None:
        if min(self.seeds) < 0:
            raise ValueError(f"expected --seed of at least 0, got {min(self.seeds)}")
        if self.steal.budget > self.pool:
            raise ValueError(
                f"expected --pool of at least the {self.steal.budget} queries, got {self.pool} patients; no volume is "
                "asked twice"
            )


class Setting:
    """The study on one dataset, with its checkpoints in one folder.

    Args:
        study: what decides it.
        dataset: with patients enough for all roles.
        folder: of the checkpoints; what is there is not made again.
        device: where networks run.
    """

    def __init__(self, study: Study, dataset: Dataset, folder: Path, device: str = "cpu") -> None:
        self.study, self.dataset, self.folder, self.device = study, dataset, folder, device
        self.roi_size = tuple(study.roi_size or dataset.roi_size)
        self._scans: dict[int, tuple[list[Scan], list[Scan]]] = {}

    @cached_property
    def victim_cases(self) -> int | tuple[str, ...]:
        """How many cases the victim shall be trained on, or which ones it was."""
        if self.study.checkpoint is not None:
            return trained_on(read_card(self.study.checkpoint), self.dataset)
        return self.study.victim_cases

    def cast(self, seed: int) -> Cast:
        """Roles of the patients; victim and test patients are the same for every seed."""
        study = self.study
        return cast_roles(
            self.dataset,
            pool=study.pool,
            reference=study.reference,
            test=study.test,
            victim=self.victim_cases,
            seed=seed,
        )

    @cached_property
    def victim(self) -> Checkpoint:
        """The victim: given, or found in the folder, or trained."""
        study = self.study
        cast = self.cast(0)
        spec, recipe = Spec.parse(study.model), Recipe(steps=study.victim_steps)
        path = study.checkpoint or self.folder / "victim.safetensors"
        if study.checkpoint is None and not path.exists():
            part = Part(self.dataset, cast.victim, cast.test, self.roi_size)
            train(spec, part, path=path, recipe=recipe, device=self.device)
        loaded = load_checkpoint(path, architecture=spec.name)
        card = loaded.card
        if set(trained_on(card, self.dataset)) != set(cast.victim) or (
            study.checkpoint is None and card.recipe.get("steps") != recipe.steps
        ):
            raise ValueError(
                f"expected a victim trained on {len(cast.victim)} cases in {study.victim_steps} steps, found another "
                f"in {path}; remove the file or give it as --checkpoint"
            )
        if card.num_classes != len(self.dataset.class_names) or card.in_channels != self.dataset.in_channels:
            raise ValueError(
                f"expected a victim for {self.dataset.name}, found one trained on {card.dataset} in {path}"
            )
        loaded.network.to(self.device).requires_grad_(False)
        return loaded

    @cached_property
    def deployed(self) -> nn.Module:
        """The victim on whole volumes."""
        return SlidingWindow(self.victim.network, self.victim.card.roi_size, sw_batch_size=4).eval()

    @cached_property
    def test(self) -> list[Volume]:
        return [self.dataset.load(case) for case in self.cast(0).test]

    @cached_property
    def answers_on_a(self) -> list[np.ndarray]:
        """The victim's labels of the test patients on scanner A: what a copy should say of them."""
        return [self.labels(self.deployed, self.tensor(volume)) for volume in self.test]

    def tensor(self, volume: Volume) -> Tensor:
        return torch.from_numpy(volume.image)[None].to(self.device)

    def labels(self, predictor: nn.Module, images: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return predictor(images.clamp(0, 1)).argmax(1)[0].cpu().numpy()

    def thief_scans(self, seed: int) -> tuple[list[Scan], list[Scan]]:
        """The thief's volumes of scanner B, and the public ones of scanner A."""
        if seed not in self._scans:
            cast = self.cast(seed)
            own = [Scan.of(self.study.shift.scan(self.dataset.load(case))) for case in cast.pool]
            # One seed at a time stays in memory.
            self._scans = {seed: (own, [Scan.of(self.dataset.load(case)) for case in cast.reference])}
        return self._scans[seed]

    def phantoms(self) -> tuple[list[Scan], list[Scan]]:
        """Texture objects on both scanners, of the size of the first test patient."""
        like = self.test[0]
        on_a = texture_phantoms(4, like.label.shape, like.spacing_mm)
        shift = self.study.shift
        return on_a, [Scan(s.id, shift(s.image, s.spacing_mm, s.id), s.spacing_mm) for s in on_a]

    def scanned(self, volume: Volume, calibration: Calibration | None) -> Tensor:
        """``(1, C, *spatial)`` of a patient of A on scanner B, calibrated back or raw."""
        images = self.tensor(self.study.shift.scan(volume))
        return images if calibration is None else calibration.to_a(images, volume.spacing_mm).clamp(0, 1)

    def copy(self, seed: int, theft: Theft) -> Copy:
        """The copy from the folder, or stolen now."""
        name = hashlib.sha256(f"{theft.spec}|{self.study.shift}|{self.victim.sha256}".encode()).hexdigest()[
            :12
        ]
        path = self.folder / "copies" / f"seed{seed}_{name}.safetensors"
        own, reference = self.thief_scans(seed)
        patients = " ".join(scan.id for scan in own)
        if path.exists():
            return load_copy(path, self.device, patients=patients)
        if theft.truth:
            labels = {case: self.dataset.load(case).label for case in self.cast(seed).pool}
            stolen = train_on_truth(theft.steal, own, reference, labels, device=self.device)
        else:
            port = QueryPort(self.deployed, budget=theft.steal.budget, seed=seed, **theft.port)
            phantoms = self.phantoms() if theft.steal.calibration == "phantom" else None
            stolen = theft.steal(port, own, reference, phantoms=phantoms, device=self.device)
        save_copy(
            path,
            stolen,
            theft.steal,
            self.dataset,
            provenance={
                "victim_sha256": self.victim.sha256,
                "shift": str(self.study.shift),
                "theft": theft.spec,
                "patients": patients,
            },
        )
        # What is measured is what is in the file, in its precision.
        return load_copy(path, self.device, patients=patients)
