"""Reading NIfTI files that cannot be trusted: every defect becomes one clear :class:`CaseError`."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .base import CaseError

MAX_VOXELS = 2**31
"""Headers that claim more than this are refused before a byte of the data is read."""


def inside(root: Path, relative: str, case_id: str) -> Path:
    """Resolve ``relative`` below ``root``; a path that leaves it is refused.

    Raises:
        CaseError: if the resolved path (links followed) is outside ``root`` or does not exist.
    """
    root = root.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise CaseError(
            case_id, f"a file inside {root.name}/", repr(relative), "list only paths below the dataset folder"
        )
    if not path.is_file():
        raise CaseError(
            case_id,
            f"the file {relative}",
            "nothing there",
            "complete the download or drop the case from dataset.json",
        )
    return path


def read_array(path: Path, case_id: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read one NIfTI file: array as stored on disk (scaled), ``(4, 4)`` affine, spacing in mm.

    Raises:
        CaseError: for unreadable, truncated, oversized, or degenerate files; nothing is guessed.
    """
    try:
        image: Any = nib.load(path)
        shape, zooms = image.shape, image.header.get_zooms()[:3]
        if math.prod(shape) > MAX_VOXELS:
            raise CaseError(
                case_id, f"at most {MAX_VOXELS} voxels", f"a header claiming {shape}", f"replace {path.name}"
            )
        array = np.asarray(image.dataobj)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        ImageFileError,
        HeaderDataError,
    ) as error:
        if isinstance(error, CaseError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CaseError(
            case_id, "a complete NIfTI file", f"{path.name}: {reason}", "download or convert it again"
        ) from error
    if any(not math.isfinite(z) or z <= 0 for z in zooms):
        raise CaseError(
            case_id,
            "positive voxel spacing",
            f"{tuple(map(float, zooms))} in {path.name}",
            "repair the header",
        )
    if image.affine is None or not np.isfinite(image.affine).all():
        raise CaseError(case_id, "a finite affine", f"{image.affine} in {path.name}", "repair the header")
    return array, np.asarray(image.affine, dtype=np.float64), tuple(float(z) for z in zooms)


def check_image(array: np.ndarray, channels: int, case_id: str) -> np.ndarray:
    """Bring an image array to ``(C, *spatial)`` float32, or say why it cannot be used."""
    if array.ndim == 4 and array.shape[-1] == channels:
        array = np.moveaxis(array, -1, 0)
    elif array.ndim == 3 and channels == 1:
        array = array[None]
    else:
        raise CaseError(
            case_id,
            f"a 3-D image with {channels} channel(s)",
            f"shape {array.shape}",
            "split or convert the file",
        )
    array = array.astype(np.float32)
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise CaseError(
            case_id,
            "finite intensities",
            f"{bad} NaN or infinite voxels",
            "repair the image; they are not guessed",
        )
    return array


def check_label(array: np.ndarray, spatial: tuple[int, ...], num_classes: int, case_id: str) -> np.ndarray:
    """Bring a label array to ``(*spatial)`` int16 class ids, or say why it cannot be used."""
    if array.shape != spatial:
        raise CaseError(
            case_id, f"a label of the image's shape {spatial}", f"{array.shape}", "pair the right files"
        )
    rounded = np.rint(array)
    if not np.isfinite(array).all() or np.abs(array - rounded).max(initial=0) > 1e-3:
        raise CaseError(
            case_id,
            "whole class ids in the label",
            "fractional or non-finite values",
            "resample labels with nearest neighbor",
        )
    low, high = int(rounded.min(initial=0)), int(rounded.max(initial=0))
    if low < 0 or high >= num_classes:
        raise CaseError(
            case_id,
            f"labels in 0..{num_classes - 1}",
            f"{low}..{high}",
            "add the class to dataset.json or correct the label",
        )
    return rounded.astype(np.int16)


def check_affine(image: np.ndarray, label: np.ndarray, case_id: str) -> None:
    """Image and label must lie on the same grid in world space, to a thousandth of a millimetre."""
    difference = float(np.abs(image - label).max())
    if difference > 1e-3:
        raise CaseError(
            case_id,
            "one affine for image and label",
            f"a difference of {difference:.3g} mm",
            "resample the label onto the image",
        )
