"""Reading NIfTI files that cannot be trusted: every defect becomes one clear :class:`CaseError`."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from .base import CaseError

MAX_VOXELS = 2**31
"""Headers that claim more than this are refused before a byte of the data is read."""


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
        label: ``(*spatial)`` int16 class ids.
        affine: ``(4, 4)`` voxel to world, millimetres.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]


def read_case(
    root: Path,
    files: CaseFiles,
    *,
    channels: int,
    num_classes: int,
    case_id: str,
    relabel: Mapping[int, int] | None = None,
) -> RawCase:
    """Read and check one case; with ``relabel``, ids of the file become class ids and all others background.

    Raises:
        CaseError: missing or unreadable files, or image and label that do not fit each other or the dataset.
    """
    paths = [inside(root, name, case_id) for name in (*files.images, files.label)]
    raw, affine, spacing = read_array(paths[0], case_id)
    if len(files.images) == 1:
        image = check_image(raw, channels, case_id)
    else:
        image = _stack(raw, affine, paths[1:-1], channels, case_id)
    label_raw, label_affine, _ = read_array(paths[-1], case_id)
    known = num_classes if relabel is None else MAX_LABELS
    label = check_label(label_raw, image.shape[1:], known, case_id)
    if relabel is not None:
        table = np.zeros(max(int(label.max(initial=0)), *relabel) + 1, np.int16)
        table[list(relabel)] = list(relabel.values())
        label = table[label]
    check_affine(affine, label_affine, case_id)
    return RawCase(case_id, image, label, affine, spacing)


def _stack(
    first: np.ndarray, affine: np.ndarray, others: Sequence[Path], channels: int, case_id: str
) -> np.ndarray:
    """Channels that lie in a file each, which must share one grid."""
    if len(others) + 1 != channels:
        raise CaseError(
            case_id, f"{channels} channel files", str(len(others) + 1), "complete the files of the case"
        )
    images = [check_image(first, 1, case_id)]
    for path in others:
        raw, other_affine, _ = read_array(path, case_id)
        images.append(check_image(raw, 1, case_id))
        if images[-1].shape != images[0].shape:
            raise CaseError(
                case_id,
                f"channels of one shape {images[0].shape[1:]}",
                f"{images[-1].shape[1:]} in {path.name}",
                "resample the channels onto one grid",
            )
        check_affine(affine, other_affine, case_id, what=f"all channels ({path.name})")
    return np.concatenate(images)


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
        raise CaseError(
            case_id, f"a file inside {root.name}/", repr(relative), "list only paths below the dataset folder"
        )
    if not path.is_file():
        raise CaseError(
            case_id,
            f"the file {relative}",
            "nothing there",
            "complete the download or drop the case from the list",
        )
    return path


def read_array(path: Path, case_id: str) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read one NIfTI file: array as stored on disk (scaled), ``(4, 4)`` affine, spacing in mm.

    Raises:
        CaseError: for unreadable, truncated, oversized, or degenerate files; nothing is guessed.
    """
    if path.stat().st_size == 0:
        raise CaseError(case_id, "a complete NIfTI file", f"{path.name} of 0 bytes", "download it again")
    try:
        image: Any = nib.load(path)
        shape, zooms = image.shape, _stored_zooms(image, path)
        if math.prod(shape) > MAX_VOXELS:
            raise CaseError(
                case_id, f"at most {MAX_VOXELS} voxels", f"a header claiming {shape}", f"replace {path.name}"
            )
        array = np.asarray(image.dataobj)
    except (
        OSError,
        EOFError,
        MemoryError,
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
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-12:
        raise CaseError(
            case_id,
            "an affine that spans three dimensions",
            f"{image.affine[:3, :3].tolist()} in {path.name}",
            "repair the header",
        )
    return array, np.asarray(image.affine, dtype=np.float64), tuple(float(z) for z in zooms)


def _stored_zooms(image: Any, path: Path) -> tuple[float, ...]:
    """Voxel sides as the file has them: nibabel quietly turns 0 into 1 when it loads."""
    if not isinstance(image, nib.Nifti1Image):
        return image.header.get_zooms()[:3]
    with ImageOpener(str(path)) as stream:
        header = type(image.header).from_fileobj(stream, check=False)
    return tuple(float(z) for z in header["pixdim"][1 : 1 + min(len(image.shape), 3)])


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
            "correct the label or the list of classes",
        )
    return rounded.astype(np.int16)


def check_affine(
    image: np.ndarray, label: np.ndarray, case_id: str, *, what: str = "image and label"
) -> None:
    """Two files must lie on the same grid in world space, to a thousandth of a millimetre."""
    difference = float(np.abs(image - label).max())
    if difference > 1e-3:
        raise CaseError(
            case_id,
            f"one affine for {what}",
            f"a difference of {difference:.3g} mm",
            "resample one onto the other",
        )
