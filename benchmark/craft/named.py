"""An attack and a model with the identity that records know them by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from nibabel.orientations import aff2axcodes
from torch import Tensor

from robustvox.datasets import IntensityWindow, Volume

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
class NamedModel:
    """A whole-volume predictor and its identity: the name people read, and the sha256 of its weights.

    Attributes:
        name: what people read.
        sha256: of the weights.
        predictor: maps ``(B, C, *spatial)`` to logits. That of a prompted model refuses everything before
            :meth:`for_case`.
        flags: of every row.
        notes: printed before a run.
        spacing_mm: the only one it is for, where it tells one.
        prompted: what makes the predictor of a case, for published targets with their own grid and prompts.
        licence: of the weights, stored with the records.
        prompts: of the case, after :meth:`for_case`; empty where there are none.
        blind: share of the case's voxels no change of which reaches the network, likewise.
    """

    name: str
    sha256: str
    predictor: nn.Module
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    prompted: PromptedModel | None = None
    licence: str = ""
    prompts: str = ""
    blind: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other model of a run."""
        return self.name, self.sha256

    def for_case(self, volume: Volume) -> NamedModel:
        """The model for one case: itself, or with a predictor whose grid and prompts the clean image has fixed.

        Raises:
            ValueError: the case is not for this model, by its spacing, modality, channels or missing reference.
        """
        self.check(volume)
        if self.prompted is None or self.blind is not None:
            # Nothing to fix, or fixed already.
            return self
        from robustvox.models.prompted import Case

        window = volume.window
        device = next(self.prompted.segmenter.parameters()).device
        case = Case(
            id=volume.id,
            image=torch.from_numpy(volume.image)[None].to(device),
            spacing_mm=tuple(float(side) for side in volume.spacing_mm),
            axes="".join(aff2axcodes(volume.affine)),
            window=(window.low, window.high) if isinstance(window, IntensityWindow) else (0.0, 1.0),
            unit=window.unit,
            label=volume.label,
        )
        target = self.prompted.for_case(case).to(device).eval()
        prompts = "" if target.prompts.kind == "none" else target.prompts.text()
        return replace(self, predictor=target, prompts=prompts, blind=target.blind_share(case.image))

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


@torch.no_grad()
def predict(model: NamedModel, images: Tensor) -> np.ndarray:
    """Label volume ``(*spatial)`` a model gives for one image ``(1, C, *spatial)``."""
    logits = model.predictor(images)
    if not torch.isfinite(logits).all():
        raise ValueError(f"expected finite logits from {model.name}, got NaN or infinity; check its weights")
    return logits.argmax(1)[0].cpu().numpy()
