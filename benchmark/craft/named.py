"""An attack and a model with the identity that records know them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robustvox.datasets import Volume

if TYPE_CHECKING:
    from torch import nn

    from robustvox.attacks import Attack


@dataclass(frozen=True)
class NamedAttack:
    """An attack and its identity in records: the canonical spec with all defaults filled in."""

    spec: str
    attack: Attack


@dataclass(frozen=True)
class NamedModel:
    """A whole-volume predictor and its identity: the name people read, and the sha256 of its weights."""

    name: str
    sha256: str
    predictor: nn.Module
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None

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


@torch.no_grad()
def predict(model: NamedModel, images: Tensor) -> np.ndarray:
    """Label volume ``(*spatial)`` a model gives for one image ``(1, C, *spatial)``."""
    logits = model.predictor(images)
    if not torch.isfinite(logits).all():
        raise ValueError(f"expected finite logits from {model.name}, got NaN or infinity; check its weights")
    return logits.argmax(1)[0].cpu().numpy()
