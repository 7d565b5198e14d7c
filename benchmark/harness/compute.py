"""What scoring one volume on one target gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from robustvox.datasets import Volume

from ..craft.meter import Cost
from ..craft.named import NamedModel
from ..metrics.distortion import Distortion
from ..metrics.success import VoxelSuccess
from ..plan.plan import Job


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class in one prediction, as records have them: fractions in [0, 1], HD95 in mm."""

    class_id: int
    class_name: str
    dice: float
    hd95_mm: float
    nsd: float
    status: str


@dataclass(frozen=True)
class Outcome:
    """What scoring one target gives.

    Attributes:
        scores: one per scored class.
        cost: of crafting the volume.
        distortion: between the volume that was scored and the clean one.
        success: of the attack, voxel by voxel; None for the clean image.
        flags: what may look wrong, sorted.
        prompts: what a prompted target was asked, with every click.
        blind: share of the volume no change of which reaches the target; None where it was not asked.
    """

    scores: tuple[ClassScore, ...]
    cost: Cost
    distortion: Distortion
    success: VoxelSuccess | None
    flags: tuple[str, ...]
    prompts: str = ""
    blind: float | None = None

    def score_rows(self) -> list[dict[str, Any]]:
        """Fields of the score rows of a record."""
        return [asdict(score) for score in self.scores]

    def cost_row(self, provenance: str) -> dict[str, Any]:
        """Fields of the closing row of a record."""
        rates = {} if self.success is None else self.success._asdict()
        return {
            **self.distortion._asdict(),
            **asdict(self.cost),
            **{f"asr_{where}": share for where, share in rates.items()},
            **({} if self.blind is None else {"blind": self.blind, "prompts": self.prompts}),
            "flags": list(self.flags),
            "provenance": provenance,
        }


@dataclass(frozen=True)
class Failure:
    """Why there is no outcome; one line."""

    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is."""
        return cls(" ".join(f"{error}".split()) or type(error).__name__)


@dataclass(frozen=True)
class Scored:
    """One prediction that was scored; pictures are made of them.

    Attributes:
        job: what was crafted; its attack is None for the clean image.
        target: the model that predicted.
        volume: the case.
        images: what was predicted, ``(1, C, *spatial)``, on the device of the networks.
        prediction: class ids ``(*spatial)``.
        outcome: its scores and budget.
    """

    job: Job
    target: NamedModel
    volume: Volume
    images: Tensor
    prediction: np.ndarray
    outcome: Outcome

    @property
    def image(self) -> np.ndarray:
        """What was predicted, ``(C, *spatial)``."""
        return self.images[0].cpu().numpy()


def mean_dice(scores: tuple[ClassScore, ...]) -> float:
    """Mean over the classes that the case has, as in the tables; NaN without any.

    Example:
        >>> two = tuple(ClassScore(i, "", dice, 0.0, 1.0, "ok") for i, dice in ((1, 0.8), (2, 0.6)))
        >>> mean_dice((*two, ClassScore(3, "", float("nan"), 0.0, 1.0, "absent")))
        0.7
    """
    values = np.array([score.dice for score in scores], float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
