"""How large the volumes of a folder are, from their headers alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError

from .base import CaseError, Dataset
from .folder import CaseFolder
from .nifti import inside
from .nifti_file import read_header

READ = 64
"""Headers that are read at most, spread over the cases: a typical size asks for no more."""


def volume_shapes(dataset: Dataset) -> list[tuple[int, ...]]:
    """Sizes ``(X, Y, Z)`` of volumes as the dataset gives them, one per readable case.

    Of a folder of files the headers are read, at most ``READ`` of them; of anything else, or where volumes are resampled
    or cropped, a few volumes are loaded. A case that cannot be read is left out: loading it will say why.

    Args:
        dataset: any; the order of its cases does not matter.
    """
    ids = sorted({case for cases in dataset.splits.values() for case in cases})
    every = max(len(ids) // READ, 1)
    if isinstance(dataset, CaseFolder) and not _changes_size(dataset):
        return list(_from_headers(dataset, ids[::every]))
    found = []
    for case in ids[:: max(len(ids) // 4, 1)]:
        try:
            found.append(tuple(dataset.load(case).image.shape[1:]))
        except CaseError:
            continue
    return found


def _changes_size(dataset: CaseFolder) -> bool:
    done = dataset.preparation
    return (
        done.spacing_mm is not None
        or done.crop_foreground
        or done.fit_to is not None
        or done.pad_to is not None
    )


def _from_headers(dataset: CaseFolder, ids: Iterable[str]) -> Iterable[tuple[int, ...]]:
    for case in ids:
        try:
            image = read_header(inside(Path(dataset.root), dataset.paths(case).images[0], case), case)
            shape = tuple(int(side) for side in image.shape[:3])
            axes = io_orientation(image.affine)[:, 0]
        # The affine may be anything; loading the case will say so.
        except (CaseError, HeaderDataError, ValueError, IndexError, ArithmeticError):
            continue
        if len(shape) == 3 and not any(axis != axis for axis in axes) and min(shape) > 0:
            turned = [0, 0, 0]
            for axis, world in enumerate(axes):
                turned[int(world)] = shape[axis]
            yield tuple(turned) if dataset.preparation.orientation else shape
