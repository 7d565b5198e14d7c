"""The low/high-frequency study of one adversarial volume: its perturbation filtered band by band, scored again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...craft.crafting import Crafted
from ...craft.named import NamedModel, predict
from ...craft.view import truncate
from ...harness.bench import Bench
from ...plan.plan import Job
from .bands import Band, energy_share, filter_perturbation
from .tables import GROUP, WHOLE, BandScore, band_name


def study(bench: Bench, job: Job, chosen: Sequence[Band], scalings: Sequence[str]) -> Iterator[BandScore]:
    """A row per target, scaling and band of one adversarial volume, the whole perturbation first.

    Args:
        bench: computes predictions; its protocol scores them and says what another model sees.
        job: what is attacked; the volume is crafted once for all targets.
        chosen: the bands beside the whole perturbation.
        scalings: norms that every band gets back, of :data:`~robustvox.benchmark.studies.frequency.bands.RESCALE`.
    """
    crafted = bench.craft(job)
    for target in job.targets:
        filtered = _Filtered(bench, job, target, crafted)
        for rescale in scalings:
            whole = filtered.score(WHOLE, rescale)
            for band in (WHOLE, *chosen):
                yield BandScore(
                    **filtered.identity,
                    rescale=rescale,
                    kind=band.kind,
                    band=band_name(band),
                    low=band.low,
                    high=band.high,
                    share=float(filtered.mask(band).mean()),
                    dice_clean=filtered.clean_dice,
                    dice_adv=whole.dice,
                    **asdict(filtered.score(band, rescale)),
                )


@dataclass(frozen=True)
class _Part:
    """A part of a perturbation: its share of the energy, and the norms and the Dice of what is scored."""

    energy: float
    linf: float
    l2: float
    dice: float


@dataclass
class _Filtered:
    """The perturbation of one volume on one target; every part of it is predicted once."""

    bench: Bench
    job: Job
    target: NamedModel
    crafted: Crafted

    def __post_init__(self) -> None:
        self._case = self.bench.case(self.job.case)
        self._image = self._case.volume.image
        self._whole = self.crafted.images[0].cpu().numpy().astype(np.float64) - self._image
        self._scored: dict[bytes, _Part] = {}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The columns that are the same in every row."""
        unit = self.bench.plan.unit(self.job, self.target, "")
        return {name: getattr(unit, name) for name in (*GROUP, "seed", "case")}

    @cached_property
    def clean_dice(self) -> float:
        """Mean Dice of the untouched volume."""
        return self._dice(self.bench.clean(self.target, self._case.volume))

    def mask(self, band: Band) -> np.ndarray:
        """The frequencies of a band, true where they pass."""
        shape = self._case.volume.label.shape
        return np.ones(shape, bool) if band is WHOLE else band.mask(shape)

    def score(self, band: Band, rescale: str) -> _Part:
        """What a band of the perturbation does."""
        mask = self.mask(band)
        # The published cubes and the low bands share members.
        key = rescale.encode() + hashlib.sha256(np.packbits(mask).tobytes()).digest()
        if key not in self._scored:
            self._scored[key] = self._measure(None if mask.all() else mask, rescale)
        return self._scored[key]

    def _measure(self, mask: np.ndarray | None, rescale: str) -> _Part:
        plan, whole = self.bench.plan, self._whole
        part = whole if mask is None else filter_perturbation(whole, mask)
        scaled = whole if mask is None else filter_perturbation(whole, mask, rescale=rescale)
        clipped = np.clip(self._image + scaled, 0.0, 1.0).astype(np.float32)
        images = torch.from_numpy(clipped)[None].to(plan.device)
        # What another model sees under this protocol, as in a run.
        images = truncate(images) if self.bench.truncates(self.job, self.target) else images
        change = images[0].cpu().numpy().astype(np.float64) - self._image
        return _Part(
            energy=energy_share(part, whole),
            linf=float(np.abs(change).max()),
            l2=float(np.linalg.norm(change)),
            dice=self._dice(predict(self.bench.for_case(self.target, self._case.volume), images)),
        )

    def _dice(self, prediction: np.ndarray) -> float:
        dice: Any = self._case.scorer(prediction)["dice"]
        return float(dice.mean())
