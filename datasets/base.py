"""The contracts every dataset keeps: a volume, its intensity window, named splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


class DatasetError(ValueError):
    """A dataset or one of its cases cannot be used; the message says expected, found, remedy."""


class CaseError(DatasetError):
    """One case is unusable. It becomes a failed row and never stops the other cases."""

    def __init__(self, case_id: str, expected: str, found: str, remedy: str) -> None:
        super().__init__(f"case {case_id}: expected {expected}, found {found}; {remedy}")
        self.case_id = case_id


@dataclass(frozen=True)
class IntensityWindow:
    """The affine map between original intensities and the unit interval the networks see.

    Args:
        low: original intensity (``unit``) that becomes 0; everything below is clipped.
        high: original intensity (``unit``) that becomes 1; everything above is clipped.
        unit: name of the original unit, ``"HU"`` for CT, ``"a.u."`` for MRI.

    Raises:
        ValueError: if the window is empty or not finite.

    Example:
        >>> window = IntensityWindow(-175.0, 250.0, "HU")
        >>> round(window.physical(8 / 255), 1)
        13.3
    """

    low: float
    high: float
    unit: str = "a.u."

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise ValueError(f"expected a finite window with low < high, got [{self.low}, {self.high}]")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Original intensities of any shape to float32 in [0, 1]."""
        scaled = (image.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip(scaled, 0.0, 1.0).astype(np.float32)

    def invert(self, image: np.ndarray) -> np.ndarray:
        """Values in [0, 1] of any shape back to original intensities, float32."""
        return (image.astype(np.float64) * (self.high - self.low) + self.low).astype(np.float32)

    def physical(self, eps: float) -> float:
        """What a change of ``eps`` on the unit interval means in ``unit``."""
        return eps * (self.high - self.low)


@dataclass(frozen=True)
class ChannelWindows:
    """One :class:`IntensityWindow` per channel, for images whose channels share no scale (MRI sequences, CT and PET).

    Args:
        windows: one per channel, in channel order.

    Example:
        >>> windows = ChannelWindows((IntensityWindow(0.0, 100.0), IntensityWindow(0.0, 4000.0)))
        >>> windows.apply(np.full((2, 1, 1, 1), 50.0)).ravel().tolist()
        [0.5, 0.012500000186264515]
    """

    windows: tuple[IntensityWindow, ...]

    @property
    def unit(self) -> str:
        """Names of the original units, each once: ``"a.u."``, or ``"HU, a.u."`` for CT beside PET."""
        return ", ".join(dict.fromkeys(self.units))

    @property
    def units(self) -> tuple[str, ...]:
        """Name of the original unit of each channel."""
        return tuple(w.unit for w in self.windows)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Original intensities ``(C, *spatial)`` to float32 in [0, 1]."""
        return np.stack([w.apply(c) for w, c in zip(self.windows, image, strict=True)])

    def invert(self, image: np.ndarray) -> np.ndarray:
        """Values in [0, 1], ``(C, *spatial)``, back to original intensities, float32."""
        return np.stack([w.invert(c) for w, c in zip(self.windows, image, strict=True)])

    def physical(self, eps: float) -> tuple[float, ...]:
        """What a change of ``eps`` on the unit interval means, per channel in that channel's unit."""
        return tuple(w.physical(eps) for w in self.windows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """What the files of a case said before anything was turned, resampled or windowed.

    Args:
        affine: ``(4, 4)`` voxel to world in millimetres of the arrays in the files.
        axes: their axis codes, ``"LPS"``; adversarial volumes are saved along them.
        shape: ``(C, *spatial)`` as stored.
        spacing_mm: voxel sides along the stored axes.
        spacing_source: part of the header the geometry is from, see :class:`~.geometry.Grid`.
        unit: of length in the header, see :class:`~.geometry.Grid`.
        nonzero: share of voxels that are not 0, per channel.
    """

    affine: np.ndarray
    axes: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    spacing_source: str
    unit: str
    nonzero: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """One case as the harness sees it.

    Args:
        id: case id.
        image: see below.
        label: see below.
        spacing_mm: voxel sides along the array's axes; the lengths of the affine's columns.
        affine: see below.
        window: what maps original intensities to the image; a window per channel where channels differ.
        stored: what the files said; ``None`` for a volume that is from no file.
        ignore: voxels that are neither attacked for, trained on nor scored (nnU-Net's ignore label), or ``None``.
        original: the intensities of the file on the grid of the image, with what the window clips; ``None`` where
            nobody has them.

    Shape:
        image: ``(C, *spatial)`` float32 in [0, 1].
        label: ``(*spatial)`` integer class ids, 0 is background.
        affine: ``(4, 4)`` voxel to world, millimetres; travels to every file written from this volume.
        ignore: ``(*spatial)`` bool.
        original: ``(C, *spatial)`` float32.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, ...]
    affine: np.ndarray
    window: IntensityWindow | ChannelWindows
    stored: Stored | None = None
    ignore: np.ndarray | None = None
    original: np.ndarray | None = None


@runtime_checkable
class Dataset(Protocol):
    """Named splits of volumes. Attributes are cheap to read, ``load`` does the work."""

    @property
    def name(self) -> str:
        """Registry key, and the folder name under ``results/``."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class id; index 0 is the background."""
        ...

    @property
    def in_channels(self) -> int:
        """Image channels ``C``."""
        ...

    @property
    def roi_size(self) -> tuple[int, ...]:
        """Default sliding-window size in voxels; () where nobody chose one and the volumes' sizes decide."""
        ...

    @property
    def nsd_tolerance_mm(self) -> float:
        """Tolerance of the normalised surface Dice."""
        ...

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        """Case ids per split; ``train`` and ``validation`` at least."""
        ...

    @property
    def provenance(self) -> Mapping[str, str]:
        """Source, licence, split rule and preprocessing, as recorded beside the results."""
        ...

    def load(self, case_id: str) -> Volume:
        """Read one case; raises :class:`CaseError` when it cannot be used."""
        ...


def patient_of(dataset: Dataset, case_id: str) -> str:
    """The patient whom a case is of: the case itself, unless the dataset has ``patients``, by case id.

    Two cases of one patient are not independent, so means over cases are resampled by patient.

    Example:
        >>> from robustvox.datasets import open_dataset
        >>> patient_of(open_dataset("phantom"), "val_000")
        'val_000'
    """
    patients: Mapping[str, str] = getattr(dataset, "patients", {})
    return patients.get(case_id, case_id)


def channel_names_of(dataset: Dataset) -> tuple[str, ...]:
    """Names of the image channels; () of a dataset that has none for them.

    Example:
        >>> from robustvox.datasets import open_dataset
        >>> channel_names_of(open_dataset("phantom"))
        ()
    """
    names: Sequence[str] = getattr(dataset, "channels", ())
    return tuple(names)
