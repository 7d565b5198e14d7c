"""How one prediction is scored under a protocol: which classes, in which unit, and what a lost one counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from robustvox.datasets import Dataset, Volume, patient_of

from ..metrics.distortion import Distortion, measure
from ..metrics.scores import LabelSurfaces, score
from ..metrics.success import VoxelSuccess, voxel_success
from ..specs.protocols import PROTOCOLS, Protocol
from .compute import ClassScore, channel_changes

if TYPE_CHECKING:
    from pandas import DataFrame


def counted(prediction: np.ndarray, ignore: np.ndarray | None) -> np.ndarray:
    """A prediction with background where nobody labelled, as the reference has it there.

    Example:
        >>> counted(np.array([1, 2, 1]), np.array([False, False, True])).tolist()
        [1, 2, 0]
    """
    return prediction if ignore is None else np.where(ignore, 0, prediction)


class Scorer:
    """Scores predictions of one case; the reference's surfaces are computed once.

    Under ``robustvox-1`` this is :func:`~robustvox.benchmark.metrics.scores.score`. The switches of a protocol change the
    columns of the same table: ``background`` adds a row with ``class_id`` 0, ``voxel_hd95`` puts voxels into
    ``hd95_mm``, ``drop_lost`` empties what the published code left out of its means. NSD, which was not
    published, keeps mm and counts a lost class as 0; ``status`` stays true in any protocol.

    With all three, Dice and HD95 are MONAI's with ``include_background=True`` and no spacing, and NaN where MONAI's
    are.

    Args:
        protocol: what the numbers shall mean.
        volume: the case.
        num_classes: background included.
        nsd_tolerance_mm: distance that still counts as agreement of the surfaces, in mm.

    Example:
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> from robustvox.datasets import open_dataset
        >>> volume = open_dataset("phantom").load("val_000")
        >>> scorer = Scorer(PROTOCOLS["bmvc2024"], volume, num_classes=8, nsd_tolerance_mm=5.0)
        >>> lost = scorer(np.zeros_like(volume.label))
        >>> lost["class_id"].tolist(), lost["hd95_mm"].notna().sum().item(), lost["dice"].gt(0).sum().item()
        ([0, 1, 2, 3, 4, 5, 6, 7], 1, 1)
    """

    def __init__(
        self, protocol: Protocol, volume: Volume, *, num_classes: int, nsd_tolerance_mm: float
    ) -> None:
        self._protocol = protocol
        # Shifted by one, the background is a class like any other.
        self._shift = int(protocol.background)
        self._reference = self._shifted(volume.label)
        self._num_classes = num_classes + self._shift
        self._tolerance = nsd_tolerance_mm
        self._spacing = tuple(volume.spacing_mm)
        self._ignore = volume.ignore
        self._surfaces = self._prepare(self._spacing)
        voxels = (1.0,) * volume.label.ndim
        self._in_voxels = self._prepare(voxels) if protocol.voxel_hd95 else None

    def __call__(self, prediction: np.ndarray) -> DataFrame:
        """One row per scored class, columns as :func:`~robustvox.benchmark.metrics.scores.score` gives them.

        Where the case says that nobody labelled a voxel (:attr:`Volume.ignore`), neither counts as any class.
        """
        prediction = counted(prediction, self._ignore)
        table = self._score(prediction, self._surfaces)
        if self._in_voxels is not None:
            table["hd95_mm"] = self._score(prediction, self._in_voxels)["hd95_mm"]
        table["class_id"] -= self._shift
        if self._protocol.drop_lost:
            hallucinated = table["status"] == "hallucinated"
            table.loc[hallucinated, "dice"] = np.nan
            table.loc[hallucinated | (table["status"] == "missing"), "hd95_mm"] = np.nan
        return table

    def _shifted(self, labels: np.ndarray) -> np.ndarray:
        return labels.astype(np.int64) + self._shift if self._shift else labels

    def _prepare(self, spacing: tuple[float, ...]) -> LabelSurfaces:
        return LabelSurfaces(self._reference, num_classes=self._num_classes, spacing_mm=spacing)

    def _score(self, prediction: np.ndarray, surfaces: LabelSurfaces) -> DataFrame:
        return score(
            self._shifted(prediction),
            self._reference,
            num_classes=self._num_classes,
            spacing_mm=tuple(float(side) for side in surfaces.spacing_mm),
            nsd_tolerance_mm=self._tolerance,
            cache=surfaces,
        )


class LabelSetScorer:
    """Scores labels that may overlap one by one, where class ``s`` is the set of labels whose bits ``s`` has.

    Args:
        protocol: as in :class:`Scorer`; there is no background among overlapping labels, so it gets no row.
        volume: the case, its label volume of sets.
        labels: how many there are; label ``k`` is class ``k + 1`` of the rows.
        nsd_tolerance_mm: as in :class:`Scorer`.
    """

    def __init__(self, protocol: Protocol, volume: Volume, *, labels: int, nsd_tolerance_mm: float) -> None:
        self._each = [
            Scorer(
                protocol,
                replace(volume, label=_bit(volume.label, k)),
                num_classes=2,
                nsd_tolerance_mm=nsd_tolerance_mm,
            )
            for k in range(labels)
        ]

    def __call__(self, prediction: np.ndarray) -> DataFrame:
        """One row per label, columns as :class:`Scorer` gives them."""
        from pandas import concat

        tables = [scorer(_bit(prediction, k)) for k, scorer in enumerate(self._each)]
        rows = [table[table["class_id"] == 1].assign(class_id=k) for k, table in enumerate(tables, start=1)]
        return concat(rows, ignore_index=True)


def _bit(sets: np.ndarray, k: int) -> np.ndarray:
    return (sets.astype(np.int64) >> k) & 1


def prepare_scorer(
    dataset: Dataset, volume: Volume, protocol: Protocol = PROTOCOLS["robustvox-1"]
) -> Scorer | LabelSetScorer:
    """What scores the predictions of a case of a dataset: with reading it, all that a run asks of a case.

    A dataset with an attribute ``overlapping``, names of labels that may share voxels, is scored label by label.

    Raises:
        ValueError: a case nobody can be scored on.
    """
    classes, tolerance = len(dataset.class_names), dataset.nsd_tolerance_mm
    if overlapping := len(getattr(dataset, "overlapping", ())):
        return LabelSetScorer(protocol, volume, labels=overlapping, nsd_tolerance_mm=tolerance)
    return Scorer(protocol, volume, num_classes=classes, nsd_tolerance_mm=tolerance)


def organ_sizes(volume: Volume) -> dict[int, float]:
    """Millilitres of every class that a case has, background left out.

    Example:
        >>> from robustvox.datasets import open_dataset
        >>> sizes = organ_sizes(open_dataset("phantom").load("val_000"))
        >>> max(sizes, key=sizes.get), 0 in sizes
        (1, False)
    """
    counts = np.bincount(volume.label.reshape(-1).astype(np.int64, copy=False))
    voxel_ml = float(np.prod([float(side) for side in volume.spacing_mm])) / 1000
    return {k: float(count) * voxel_ml for k, count in enumerate(counts.tolist()) if k and count}


@dataclass(frozen=True)
class PreparedCase:
    """A volume with its fingerprint and what scoring reuses of it."""

    volume: Volume
    data_sha256: str
    scorer: Scorer | LabelSetScorer

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other cases of a run."""
        return self.volume.id, self.data_sha256


@dataclass(frozen=True)
class Change:
    """How far a volume is from its case: at all, and per channel where channels have a window each."""

    distortion: Distortion
    channels: str | None


@dataclass(frozen=True)
class Judged:
    """The scores of a prediction, and the success of the attack; None for the clean image."""

    scores: tuple[ClassScore, ...]
    success: VoxelSuccess | None


def change_of(case: PreparedCase, image: np.ndarray) -> Change:
    """How far an image ``(C, *spatial)`` is from the case's own."""
    return Change(measure(image, case.volume.image), channel_changes(image, case.volume))


def judge(
    case: PreparedCase, prediction: np.ndarray, unharmed: np.ndarray | None, class_names: tuple[str, ...]
) -> Judged:
    """Score a prediction ``(*spatial)``.

    Args:
        case: what was predicted.
        prediction: class ids.
        unharmed: what the same model predicts on the clean image; None where this is that.
        class_names: by class id.
    """
    rows: list[Any] = case.scorer(prediction).to_dict("records")
    scores = tuple(ClassScore(class_name=class_names[row["class_id"]], **row) for row in rows)
    return Judged(scores, None if unharmed is None else _success(prediction, unharmed, case.volume))


def _success(prediction: np.ndarray, unharmed: np.ndarray, volume: Volume) -> VoxelSuccess:
    """Over the voxels that somebody labelled."""
    if volume.ignore is None:
        return voxel_success(prediction, unharmed, volume.label)
    there = ~volume.ignore
    return voxel_success(prediction[there], unharmed[there], volume.label[there])


def patient_of_several(dataset: Dataset, case: str) -> str:
    """Whom a case is of; empty where it is the only one of its patient."""
    patient = patient_of(dataset, case)
    return "" if patient == case else patient
