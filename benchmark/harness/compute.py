"""What scoring one volume on one target gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from robustvox.datasets import ChannelWindows, Volume

from ..craft.meter import Cost
from ..craft.named import NamedModel
from ..metrics.distortion import Distortion
from ..metrics.success import VoxelSuccess
from ..plan.attacks import brief
from ..plan.plan import Job
from .faults import Kind, kind_of, reason_of, trace_of


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
        patient: whom the case is of; empty where it is the only one of its patient.
        channels: largest change per channel in that channel's unit, where channels have a window each.
    """

    scores: tuple[ClassScore, ...]
    cost: Cost
    distortion: Distortion
    success: VoxelSuccess | None
    flags: tuple[str, ...]
    channels: str | None = None
    prompts: str = ""
    blind: float | None = None
    patient: str = ""

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
            **({"patient": self.patient} if self.patient else {}),
            **({} if self.channels is None else {"linf_channels": self.channels}),
            "flags": list(self.flags),
            "provenance": provenance,
        }


def channel_changes(image: np.ndarray, volume: Volume) -> str | None:
    """The largest change of each channel in its own unit, ``"13.3 HU; 0.31 a.u."``; None for one window.

    One change on [0, 1] is another one in every channel that has its own window, so no single number says it.

    Args:
        image: what was scored.
        volume: the case it was made from.

    Shape:
        image: ``(C, *spatial)`` in [0, 1].

    Example:
        >>> from robustvox.datasets import ChannelWindows, IntensityWindow
        >>> windows = ChannelWindows((IntensityWindow(-175, 250, "HU"), IntensityWindow(0, 10)))
        >>> clean = np.zeros((2, 2, 2, 2), np.float32)
        >>> volume = Volume("a", clean, clean[0].astype(int), (1.0, 1.0, 1.0), np.eye(4), windows)
        >>> channel_changes(clean + np.float32(8 / 255), volume)
        '13.3 HU; 0.314 a.u.'
    """
    if not isinstance(volume.window, ChannelWindows):
        return None
    changes = np.abs(image.astype(np.float64) - volume.image).reshape(len(image), -1).max(axis=1)
    pairs = zip(volume.window.windows, changes, strict=True)
    return "; ".join(f"{window.physical(float(change)):.3g} {window.unit}" for window, change in pairs)


@dataclass(frozen=True)
class Failure:
    """Why there is no outcome.

    Attributes:
        reason: one line.
        kind: whether it is the case's or the machine's.
        trace: traceback of an error that nobody worded, else empty.
    """

    reason: str
    kind: Kind = Kind.CASE
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is."""
        if isinstance(error, ElsewhereError):
            return error.failure
        return cls(reason_of(error), kind_of(error), trace_of(error))


class ElsewhereError(Exception):
    """What went wrong in another process, with its reason and traceback there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


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


def in_words(job: Job, many: int) -> str:
    """What is in work: the case, of how many that are attacked together, and what is done to it."""
    more = f" and {many - 1} more" if many > 1 else ""
    if job.attack is not None and job.surrogate is not None:
        what = f"{brief(job.attack.spec)} on {job.surrogate.shown}"
    else:
        what = "scoring" if job.saved is not None else "clean"
    return f"{job.case}{more}: {what}"


def mean_dice(scores: tuple[ClassScore, ...]) -> float:
    """Mean over the classes that the case has, as in the tables; NaN without any.

    Example:
        >>> two = tuple(ClassScore(i, "", dice, 0.0, 1.0, "ok") for i, dice in ((1, 0.8), (2, 0.6)))
        >>> mean_dice((*two, ClassScore(3, "", float("nan"), 0.0, 1.0, "absent")))
        0.7
    """
    values = np.array([score.dice for score in scores], float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
