"""Is a copy of a dataset complete and sound? Every case is read and checked, as stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .base import CaseError, Dataset
from .nifti import sha256_of

FOUND, MISSING, REFUSED = "found", "missing", "refused"


@dataclass(frozen=True)
class CaseReport:
    """What one case of a copy is.

    Args:
        id: case id.
        split: the split it is listed in.
        status: ``found``, ``missing`` (a file is not there) or ``refused`` (there, and unusable).
        shape: of the image as stored, channels first.
        spacing_mm: voxel sides as stored.
        orientation: axis codes of the affine, nearest for oblique volumes.
        labels: class ids that occur.
        sha256: of each file by its path below the dataset's folder; empty for procedural data.
        problem: expected, found and remedy, when the case is not ``found``.
    """

    id: str
    split: str
    status: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    labels: tuple[int, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def verify(dataset: Dataset, splits: Sequence[str]) -> Iterator[CaseReport]:
    """Check every case of ``splits``, one report each, in order; nothing stops at a broken case.

    Example:
        >>> from robustvox.datasets.phantom import Phantom
        >>> report = next(verify(Phantom(validation=1), ["validation"]))
        >>> report.status, report.labels
        ('found', (0, 1, 2, 3, 4, 5, 6, 7))
    """
    for split in splits:
        for case in dataset.splits[split]:
            yield _verify_case(dataset, case, split)


def _verify_case(dataset: Any, case: str, split: str) -> CaseReport:
    root, names = _files(dataset, case)
    absent = [name for name in names if not (root / name).is_file()]
    try:
        volume = dataset.read(case) if hasattr(dataset, "read") else dataset.load(case)
    except CaseError as error:
        return CaseReport(case, split, MISSING if absent else REFUSED, problem=str(error))
    return CaseReport(
        case,
        split,
        FOUND,
        shape=tuple(volume.image.shape),
        spacing_mm=tuple(round(s, 6) for s in volume.spacing_mm),
        orientation="".join(str(c) for c in nib.aff2axcodes(volume.affine)),
        labels=tuple(int(k) for k in np.unique(volume.label)),
        sha256={name: sha256_of(root / name) for name in names},
    )


def _files(dataset: Any, case: str) -> tuple[Path, tuple[str, ...]]:
    """Root and file names of a case; none for a dataset that is not made of files."""
    if not hasattr(dataset, "paths"):
        return Path(), ()
    files = dataset.paths(case)
    return Path(dataset.root), (*files.images, files.label)
