"""Is a copy of a dataset complete and sound? Every case is read as a run reads it, by the same code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .base import ChannelWindows, Dataset, IntensityWindow, Volume
from .geometry import axes_of
from .nifti import sha256_of

FOUND, MISSING, REFUSED = "found", "missing", "refused"

CASE_FAILURES: tuple[type[BaseException], ...] = (Exception,)
"""What reading one case may raise: anything, for files come from anywhere. Its report says so, the others go on."""


@dataclass(frozen=True)
class CaseReport:
    """What one case of a copy is, and what a run would make of it.

    Args:
        id: case id.
        split: the split it is listed in.
        status: ``found``, ``missing`` (a file is not there) or ``refused`` (there, and unusable).
        shape: of the image as stored, channels first.
        spacing_mm: voxel sides as stored.
        spacing_source: the part of the header they are from: ``sform``, ``qform``, ``pixdim``, or ``made``.
        unit: of length in the header; millimetres are made of it.
        orientation: axis codes as stored, nearest for oblique volumes.
        scored: shape, spacing in mm and axis codes of what a run attacks and scores.
        windows: per channel the original intensities that become 0 and 1, and their unit.
        nonzero: share of voxels that are not 0, per channel.
        labels: class ids that occur.
        millilitres: size of each of them, as labelled on the grid that is scored.
        sha256: of each file by its path below the dataset's folder; empty for procedural data.
        problem: expected, found and remedy, when the case is not ``found``.
    """

    id: str
    split: str
    status: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    spacing_source: str = ""
    unit: str = ""
    orientation: str = ""
    scored: tuple[tuple[int, ...], tuple[float, ...], str] = ((), (), "")
    windows: tuple[tuple[float, float, str], ...] = ()
    nonzero: tuple[float, ...] = ()
    labels: tuple[int, ...] = ()
    millilitres: tuple[float, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def verify(
    dataset: Dataset, splits: Sequence[str], check: Callable[[Volume], object] | None = None
) -> Iterator[CaseReport]:
    """Check every case of ``splits``, one report each, in order; nothing stops at a broken case.

    Args:
        dataset: what to check.
        splits: names of its splits.
        check: what else a run does before it attacks; a case it raises for is refused.

    Example:
        >>> from robustvox.datasets.phantom import Phantom
        >>> report = next(verify(Phantom(validation=1), ["validation"]))
        >>> report.status, report.labels
        ('found', (0, 1, 2, 3, 4, 5, 6, 7))
    """
    for split in splits:
        for case in dataset.splits[split]:
            yield _verify_case(dataset, case, split, check)


def _verify_case(dataset: Any, case: str, split: str, check: Callable[[Volume], object] | None) -> CaseReport:
    root, names = _files(dataset, case)
    try:
        volume = dataset.load(case)
        if check is not None:
            check(volume)
    except CASE_FAILURES as error:
        absent = any(not _is_file(root, name) for name in names)
        problem = " ".join(str(error).split()) or type(error).__name__
        return CaseReport(case, split, MISSING if absent else REFUSED, problem=problem)
    own = axes_of(volume.affine)
    labels, voxels = np.unique(volume.label, return_counts=True)
    millilitres = voxels * math.prod(volume.spacing_mm) / 1000
    stored = volume.stored
    return CaseReport(
        case,
        split,
        FOUND,
        shape=stored.shape if stored else tuple(volume.image.shape),
        spacing_mm=stored.spacing_mm if stored else tuple(round(s, 6) for s in volume.spacing_mm),
        spacing_source=stored.spacing_source if stored else "made",
        unit=stored.unit if stored else "mm",
        orientation=stored.axes if stored else own,
        scored=(tuple(volume.image.shape), tuple(float(s) for s in volume.spacing_mm), own),
        windows=windows_of_channels(volume),
        nonzero=stored.nonzero if stored else tuple(float((c != 0).mean()) for c in volume.image),
        labels=tuple(int(k) for k in labels),
        millilitres=tuple(float(size) for size in millilitres),
        sha256={name: sha256_of(root / name) for name in names},
    )


def windows_of_channels(volume: Volume) -> tuple[tuple[float, float, str], ...]:
    """Low, high and unit of each channel's window."""
    window: IntensityWindow | ChannelWindows = volume.window
    each = window.windows if isinstance(window, ChannelWindows) else (window,) * len(volume.image)
    return tuple((w.low, w.high, w.unit) for w in each)


def _files(dataset: Any, case: str) -> tuple[Path, tuple[str, ...]]:
    """Root and file names of a case; none for a dataset that is not made of files."""
    if not hasattr(dataset, "paths"):
        return Path(), ()
    files = dataset.paths(case)
    return Path(dataset.root), (*files.images, files.label)


def _is_file(root: Path, name: str) -> bool:
    try:
        return (root / name).is_file()
    except (OSError, ValueError):  # a name no file can have
        return True
