"""Reading NIfTI files that cannot be trusted: every defect becomes one clear :class:`CaseError`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .base import CaseError
from .geometry import SAME_GRID, Grid, check_affine, check_right_angles, grid_of, turn
from .limits import require_memory
from .nifti_file import MAX_VOXELS, PER_VOXEL, read_header, read_image

__all__ = [
    "MAX_VOXELS",
    "CaseFiles",
    "RawCase",
    "StoredFile",
    "check_affine",
    "check_image",
    "check_label",
    "inside",
    "read_array",
    "read_case",
    "read_file",
    "sha256_of",
    "spatial",
]

MAX_LABELS = 2**15
"""Ids a label file may use where only some of them are kept."""


@dataclass(frozen=True)
class CaseFiles:
    """Where one case lies, relative to the dataset's folder: one file per channel (or one with all), and a label."""

    images: tuple[str, ...]
    label: str


@dataclass(frozen=True, eq=False)
class RawCase:
    """One checked case on the grid as stored.

    Shape:
        image: ``(C, *spatial)`` float32, original intensities.
        label: ``(*spatial)`` int16 class ids; 0 where ``ignore`` is true.
        ignore: ``(*spatial)`` bool, voxels that the ignore label marks, or ``None``.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    grid: Grid
    ignore: np.ndarray | None = None

    @property
    def affine(self) -> np.ndarray:
        """``(4, 4)`` voxel to world, millimetres."""
        return self.grid.affine

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel sides along the stored axes."""
        return self.grid.spacing_mm


def read_case(
    root: Path,
    files: CaseFiles,
    *,
    channels: int,
    num_classes: int,
    case_id: str,
    ignore: int | None = None,
    relabel: Mapping[int, int] | None = None,
) -> RawCase:
    """Read and check one case.

    Args:
        root: every path is inside it.
        files: of the case.
        channels: of the image.
        num_classes: of the label, background included, without the ignore label.
        case_id: for messages.
        ignore: id of voxels that are neither trained on nor scored.
        relabel: ids of the file to class ids; every other id is background. None keeps ids as they are.

    Raises:
        CaseError: missing or unreadable files, or image and label that do not fit each other or the dataset.
    """
    paths = [inside(root, name, case_id) for name in (*files.images, files.label)]
    first = read_file(paths[0], case_id)
    needed = len(files.images) * first.array.size * PER_VOXEL
    require_memory(needed, f"{len(files.images)} channels of {paths[0].name}", case_id)
    if len(files.images) == 1:
        image = check_image(first.array, channels, case_id)
    else:
        image = _stack(first, paths[1:-1], channels, case_id)
    last = _along(first.grid, read_file(paths[-1], case_id))
    known = num_classes if relabel is None else MAX_LABELS
    label = check_label(last.array, image.shape[1:], known, case_id, ignore=ignore)
    if relabel is not None:
        table = np.zeros(max(int(label.max(initial=0)), *relabel) + 1, np.int16)
        table[list(relabel)] = list(relabel.values())
        label = table[label]
    check_affine(first.grid.affine, last.grid.affine, case_id, remedy=_remedy(first.grid, last.grid))
    check_right_angles(first.grid, paths[0].name, case_id)
    if ignore is None:
        return RawCase(case_id, image, label, first.grid)
    masked = label == ignore
    return RawCase(case_id, image, np.where(masked, 0, label).astype(label.dtype), first.grid, masked)


def _stack(first: StoredFile, others: Sequence[Path], channels: int, case_id: str) -> np.ndarray:
    """Channels that lie in a file each, which must share one grid."""
    if len(others) + 1 != channels:
        raise CaseError(
            case_id, f"{channels} channel files", str(len(others) + 1), "complete the files of the case"
        )
    images = [check_image(first.array, 1, case_id)]
    for path in others:
        other = _along(first.grid, read_file(path, case_id))
        images.append(check_image(other.array, 1, case_id))
        if images[-1].shape != images[0].shape:
            raise CaseError(
                case_id,
                f"channels of one shape {images[0].shape[1:]}",
                f"{images[-1].shape[1:]} in {path.name}",
                "resample the channels onto one grid",
            )
        check_affine(first.grid.affine, other.grid.affine, case_id, what=f"all channels ({path.name})")
    return np.concatenate(images)


def _remedy(one: Grid, other: Grid) -> str:
    """What to do about two files that lie elsewhere; a header without sform and qform says only the sides."""
    if (one.source == "pixdim") == (other.source == "pixdim"):
        return SAME_GRID
    which, whose = ("image", "label") if one.source == "pixdim" else ("label", "image")
    return f"the {which} stores no orientation: if its voxels are those of the {whose}, give it the affine of the {whose}"


def _along(grid: Grid, file: StoredFile) -> StoredFile:
    """A file with its axes permuted and flipped to run as those of a grid; whether it lies on it is for the caller."""
    array = spatial(file.array)
    if array.ndim != 3 or file.grid.axes == grid.axes:
        return file
    turned, affine = turn(array, file.grid.affine, grid.axes)
    return StoredFile(turned, replace(file.grid, affine=affine))


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def inside(root: Path, relative: str, case_id: str) -> Path:
    """Resolve ``relative`` below ``root``; a path that leaves it is refused.

    Raises:
        CaseError: if the resolved path (links followed) is outside ``root`` or does not exist.
    """
    root = root.resolve()
    try:
        path = (root / relative).resolve()
    except (OSError, ValueError) as error:
        raise CaseError(case_id, "a file name", f"{relative!r}: {error}", "correct the path") from error
    if not path.is_relative_to(root):
        found, remedy = repr(relative), "list only paths below the dataset folder"
        if Path(os.path.normpath(root / relative)).is_relative_to(root):
            found = f"a link that leads out of it, {relative!r} to {path}"
            remedy = "copy the files, or list them in a CSV or datalist that lies above both places"
        raise CaseError(case_id, f"a file inside {root.name}/", found, remedy)
    if not path.is_file():
        raise CaseError(
            case_id,
            f"the file {relative}",
            "nothing there",
            "complete the download or drop the case from the list",
        )
    return path


@dataclass(frozen=True, eq=False)
class StoredFile:
    """One NIfTI file as it lies on the disk: scaled values and the checked grid they lie on."""

    array: np.ndarray
    grid: Grid


def read_file(path: Path, case_id: str) -> StoredFile:
    """Read one NIfTI file.

    Raises:
        CaseError: for unreadable, truncated, oversized or degenerate files, voxels that are no numbers, and
            headers that :func:`~.geometry.grid_of` refuses; nothing is guessed.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise CaseError(case_id, "a complete NIfTI file", f"{path.name} of 0 bytes", "download it again")
    try:
        _check_voxels(read_header(path, case_id), path, case_id)
        image = read_image(path, case_id)
        grid = grid_of(image, path, case_id)
        return StoredFile(np.asarray(image.dataobj), grid)
    except (CaseError, MemoryError):  # a machine that is too small says nothing about the file
        raise
    except Exception as error:  # nibabel, gzip and struct raise a dozen types on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CaseError(
            case_id, "a complete NIfTI file", f"{path.name}: {reason}", "download or convert it again"
        ) from error


def read_array(path: Path, case_id: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """:func:`read_file` as array, ``(4, 4)`` affine in mm, and spacing in mm."""
    file = read_file(path, case_id)
    return file.array, file.grid.affine, file.grid.spacing_mm


def _check_voxels(image: Any, path: Path, case_id: str) -> None:
    """A number each."""
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind in "biuf":
        return
    found, remedy = f"{dtype} voxels", "convert it to integers or floats"
    if dtype.names:
        found = f"{''.join(dtype.names)} voxels of {dtype.itemsize * 8} bits"
        remedy = "save one gray value per voxel, or a file per channel"
    elif dtype.kind == "c":
        remedy = "save the magnitude, which is what scanners show"
    raise CaseError(case_id, "one real number per voxel", f"{found} in {path.name}", remedy)


def spatial(array: np.ndarray) -> np.ndarray:
    """Drop axes of length 1 behind the third: ``(X, Y, Z, 1)`` and ``(X, Y, Z, 1, C)`` mean what they hold.

    Example:
        >>> spatial(np.zeros((4, 1, 3, 1, 2))).shape
        (4, 1, 3, 2)
    """
    return array.reshape(*array.shape[:3], *(size for size in array.shape[3:] if size != 1))


def check_image(array: np.ndarray, channels: int, case_id: str) -> np.ndarray:
    """Bring an image array to ``(C, *spatial)`` float32, or say why it cannot be used."""
    stored, array = array.shape, spatial(array)
    if array.ndim == 4 and array.shape[-1] == channels:
        array = np.moveaxis(array, -1, 0)
    elif array.ndim == 3 and channels == 1:
        array = array[None]
    else:
        remedy = "name every channel in the list of the data, or split the file"
        if array.ndim == 4 and array.shape[0] == channels:
            remedy = "move the channels to the last axis"
        raise CaseError(case_id, f"a 3-D image with {channels} channel(s)", f"shape {stored}", remedy)
    if 0 in array.shape:
        raise CaseError(case_id, "an image with voxels", f"shape {array.shape}", "convert the file again")
    with np.errstate(over="ignore"):
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


def check_label(
    array: np.ndarray, shape: tuple[int, ...], num_classes: int, case_id: str, *, ignore: int | None = None
) -> np.ndarray:
    """Bring a label array to ``(*spatial)`` int16 class ids, or say why it cannot be used.

    ``ignore`` is one more id that may occur: voxels nobody labelled.
    """
    array = spatial(array)
    if array.shape != shape:
        raise CaseError(
            case_id, f"a label of the image's shape {shape}", f"{array.shape}", "pair the right files"
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
    allowed = num_classes - 1 if ignore is None else max(num_classes - 1, ignore)
    if low < 0 or high > allowed:
        raise CaseError(
            case_id,
            f"labels in 0..{allowed}",
            f"{low}..{high}",
            "correct the label or the list of classes",
        )
    return rounded.astype(np.int16)
