"""An attack and a model with the identity that records know them by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from nibabel.orientations import aff2axcodes
from torch import Tensor

from robustvox.datasets import ChannelWindows, IntensityWindow, Volume
from robustvox.models.case import CasePredictor, CaseSource

if TYPE_CHECKING:
    from torch import nn

    from robustvox.attacks import Attack
    from robustvox.models.prompted import PromptedModel


@dataclass(frozen=True)
class NamedAttack:
    """An attack and its identity in records: the canonical spec with all defaults filled in."""

    spec: str
    attack: Attack


@dataclass(frozen=True)
class ModelWindow:
    """The window of a model: its size in voxels, and who chose it."""

    roi_size: tuple[int, ...]
    source: str

    def filled(self, sides: Sequence[float]) -> float:
        """Share of the window that a volume fills; 1 where it reaches its end along every axis.

        Example:
            >>> ModelWindow((96, 96, 96), "the model").filled((48, 96, 200))
            0.5
        """
        return math.prod(min(side / roi, 1.0) for side, roi in zip(sides, self.roi_size, strict=True))


TRAINING_CASE = "training-case"
"""Flag of rows whose case the model was trained on."""


@dataclass(frozen=True)
class NamedModel:
    """A whole-volume predictor and its identity: the name people read, and the sha256 of its weights.

    Args:
        name: for people.
        sha256: of the weights, and of all else that decides what is predicted.
        predictor: ``(B, C, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``.
        flags: of every row of the model.
        notes: what the user should know of how it was read.
        spacing_mm: the only spacing it takes, where it takes one only.
        window: its window in voxels and who chose it; None where it has none.
        held_out: cases of the data it was validated on; None where nobody knows.
        trained_on: cases of the data it was trained on; their rows say so.
        prompted: what makes the predictor of a case, for published targets with their own grid and prompts.
        licence: of the weights, stored with the records.
        prompts: of the case, after :meth:`for_case`; empty where there are none.
        blind: share of the case's voxels no change of which reaches the network, likewise.
        claimed: mean foreground Dice that its checkpoint says it has; None where it says nothing.
        label: what its user calls it in tables; empty for its name. No part of what it is.
    """

    name: str
    sha256: str
    predictor: nn.Module
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    window: ModelWindow | None = None
    held_out: tuple[str, ...] | None = None
    trained_on: frozenset[str] = frozenset()
    prompted: PromptedModel | None = None
    licence: str = ""
    prompts: str = ""
    blind: float | None = None
    claimed: float | None = None
    label: str = ""

    @property
    def shown(self) -> str:
        """What people read of it."""
        return self.label or self.name

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other model of a run."""
        return self.name, self.sha256

    def check(self, volume: Volume) -> None:
        """Refuse a case that the model was not made for.

        Raises:
            ValueError: the model tells its spacing, and the case has another.
        """
        wanted, found = self.spacing_mm, tuple(float(side) for side in volume.spacing_mm)
        if wanted is not None and not np.allclose(found, wanted, rtol=0.01, atol=0):
            raise ValueError(
                f"expected a spacing of {' x '.join(f'{side:g}' for side in wanted)} mm, which {self.name} was trained "
                f"at, found {' x '.join(f'{side:g}' for side in found)} mm in {volume.id}; resample the data"
            )

    def for_case(self, volume: Volume) -> NamedModel:
        """The model as it reads one case: one that reads files for itself learns where the case lies and what was stored.

        Raises:
            ValueError: a case that the model was not made for.
        """
        self.check(volume)
        flags = (*self.flags, TRAINING_CASE) if volume.id in self.trained_on else self.flags
        if self.prompted is not None and self.blind is None:
            return self._prompted_for(self.prompted, volume)
        if not isinstance(self.predictor, CasePredictor):
            return self if flags == self.flags else replace(self, flags=flags)
        return replace(self, predictor=self.predictor.for_case(case_source(volume)), flags=flags)

    def _prompted_for(self, model: PromptedModel, volume: Volume) -> NamedModel:
        """With a predictor whose grid and prompts the clean image of the case has fixed."""
        from robustvox.models.prompted import Case

        window = volume.window
        device = next(model.segmenter.parameters()).device
        case = Case(
            id=volume.id,
            image=torch.from_numpy(volume.image)[None].to(device),
            spacing_mm=tuple(float(side) for side in volume.spacing_mm),
            axes="".join(aff2axcodes(volume.affine)),
            window=(window.low, window.high) if isinstance(window, IntensityWindow) else (0.0, 1.0),
            unit=window.unit,
            label=volume.label,
        )
        target = model.for_case(case).to(device).eval()
        prompts = "" if target.prompts.kind == "none" else target.prompts.text()
        return replace(self, predictor=target, prompts=prompts, blind=target.blind_share(case.image))

    def filled(self, volume: Volume) -> float | None:
        """Share of the model's window that a volume fills; None for a model without a window."""
        if self.window is None:
            return None
        if isinstance(self.predictor, CasePredictor):
            return self.window.filled(self.predictor.sides(case_source(volume)))
        return self.window.filled(volume.image.shape[1:])


def case_source(volume: Volume) -> CaseSource:
    """What a model that reads files for itself is told of a volume."""
    windows = volume.window.windows if isinstance(volume.window, ChannelWindows) else (volume.window,)
    windows = windows * (len(volume.image) if len(windows) == 1 else 1)
    return CaseSource(
        id=volume.id,
        affine=np.asarray(volume.affine),
        stored_affine=None if volume.stored is None else volume.stored.affine,
        image=volume.image,
        original=volume.original,
        low=tuple(window.low for window in windows),
        high=tuple(window.high for window in windows),
    )


@torch.no_grad()
def predict(model: NamedModel, images: Tensor) -> np.ndarray:
    """Label volume ``(*spatial)`` a model gives for one image ``(1, C, *spatial)``."""
    logits = model.predictor(images)
    if not torch.isfinite(logits).all():
        raise ValueError(f"expected finite logits from {model.name}, got NaN or infinity; check its weights")
    return logits.argmax(1)[0].cpu().numpy()
