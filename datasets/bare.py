"""Volumes somebody already has in memory: what is unambiguous is converted, the rest is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from .base import ChannelWindows, DatasetError, IntensityWindow, Volume
from .geometry import DISAGREEMENT, RIGHT_ANGLES, STRAIGHTEN, skew_of, spacing_of

_ROUNDING = 1e-5  # by which float16 and interpolation may leave [0, 1]


def check_volumes(volumes: Iterable[Volume], num_classes: int) -> tuple[Volume, ...]:
    """:func:`check_volume` of each, which must have ids of their own.

    Raises:
        DatasetError: equal ids, or a volume that cannot be used.
    """
    checked = tuple(check_volume(volume, num_classes) for volume in volumes)
    twice = [case for case, n in Counter(volume.id for volume in checked).items() if n > 1]
    if twice:
        raise DatasetError(
            f"expected an id of its own for each volume, found {', '.join(map(repr, twice[:5]))} more than once; "
            "number the volumes"
        )
    return checked


def check_volume(volume: Volume, num_classes: int) -> Volume:
    """A volume as the harness needs it: float32 in [0, 1], ``(C, *spatial)``, whole labels ``(*spatial)``.

    Tensors, views with negative strides, other number types, a missing channel axis of the image, and axes of length
    1 that the label has beside the image's are converted; an affine that is missing or the identity gets the sides of
    ``spacing_mm``. Intensities outside [0, 1], NaN, labels that are not whole or not classes, shapes that do not fit, and
    an affine with other sides than ``spacing_mm`` are refused: nothing is guessed.

    Args:
        volume: as given.
        num_classes: background included.

    Raises:
        DatasetError: naming the volume, what was expected and found, and what to do.

    Example:
        >>> window = IntensityWindow(0, 1)
        >>> image, label = np.ones((4, 4, 4)), np.ones((1, 4, 4, 4), bool)
        >>> volume = check_volume(Volume("a", image, label, (1, 1, 1), np.eye(4), window), num_classes=2)
        >>> volume.image.shape, volume.image.dtype.name, volume.label.shape
        ((1, 4, 4, 4), 'float32', (4, 4, 4))
    """
    if not isinstance(volume, Volume):
        raise DatasetError(
            f"expected volumes of type Volume, found {type(volume).__name__}; wrap it in Volume(...)"
        )
    case = str(volume.id)
    image, label = _array(volume.image, case, "image"), _array(volume.label, case, "label")
    image, label = _fit(image, label, case)
    spacing = _spacing(volume.spacing_mm, label.ndim, case)
    checked = replace(
        volume,
        id=case,
        image=_intensities(image, case),
        label=_classes(label, num_classes, case),
        spacing_mm=spacing,
        affine=_affine(volume.affine, spacing, case),
    )
    _check_window(checked)
    if volume.ignore is None:
        return checked
    ignore = np.ascontiguousarray(_array(volume.ignore, case, "ignore"), bool)
    if ignore.shape != checked.label.shape:
        raise _refuse(case, f"ignore of the label's shape {checked.label.shape}", f"{ignore.shape}", "fit it")
    return replace(checked, ignore=ignore)


def _array(value: Any, case: str, what: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() and value.element_size() < 4 else value
    if np.ma.is_masked(value):
        raise _refuse(case, f"values everywhere in the {what}", "a masked array", "fill what is masked")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refuse(case, f"an array as {what}", str(error), "give an array or a tensor") from error
    if array.dtype.kind not in "biuf":
        raise _refuse(case, f"real numbers in the {what}", f"{array.dtype}", "convert it")
    return array


def _fit(image: np.ndarray, label: np.ndarray, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Bring image and label to ``(C, *spatial)`` and ``(*spatial)`` where their shapes leave one way to read them."""
    if image.ndim >= 5 and image.shape[0] == 1:
        # A batch of one.
        return _fit(image[0], label[0] if label.ndim == image.ndim else label, case)
    if image.ndim in (2, 3) and label.shape in (image.shape, (1, *image.shape), (*image.shape, 1)):
        image, label = image[None], label.reshape(image.shape)
    spatial = image.shape[1:]
    if label.shape == spatial and label.ndim >= 2:
        return image, label
    if label.shape == image.shape and image.shape[0] == 1:
        return image, label[0]
    if len(spatial) >= 2 and label.shape in ((1, *spatial), (*spatial, 1), (1, 1, *spatial)):
        return image, label.reshape(spatial)
    raise _refuse(
        case,
        "an image (C, *spatial) and a label (*spatial)",
        f"{image.shape} and {label.shape}",
        "move the channel axis to the front and drop others",
    )


def _intensities(image: np.ndarray, case: str) -> np.ndarray:
    if image.size == 0:
        raise _refuse(case, "an image with voxels", f"shape {image.shape}", "give the volume")
    low, high = float(image.min()), float(image.max())
    bad = int(image.size - np.isfinite(image).sum())
    if bad:
        raise _refuse(case, "finite intensities", f"{bad} NaN or infinite voxels", "repair the image")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise _refuse(
            case,
            "intensities in [0, 1]",
            f"{low:g}..{high:g}",
            "map them with IntensityWindow(low, high).apply(image) and give that window, or say bounds=(low, high)",
        )
    return np.ascontiguousarray(np.clip(image, 0, 1), dtype=np.float32)


def _classes(label: np.ndarray, num_classes: int, case: str) -> np.ndarray:
    label = label.astype(np.int8) if label.dtype.kind == "b" else label
    if label.dtype.kind == "f":
        if not np.isfinite(label).all() or np.abs(label - np.rint(label)).max(initial=0) > 1e-3:
            raise _refuse(
                case, "whole class ids in the label", "fractional or non-finite values", "round them"
            )
        label = np.rint(label)
    low, high = int(label.min(initial=0)), int(label.max(initial=0))
    if low < 0 or high >= num_classes:
        raise _refuse(
            case, f"labels in 0..{num_classes - 1}", f"{low}..{high}", "correct the label or num_classes"
        )
    return np.ascontiguousarray(label, dtype=np.int16 if num_classes < 2**15 else np.int64)


def _spacing(spacing: Any, rank: int, case: str) -> tuple[float, ...]:
    try:
        sides = tuple(float(side) for side in spacing)
    except (TypeError, ValueError) as error:
        raise _refuse(case, f"{rank} voxel sides in mm", f"{spacing!r}", "give spacing_mm") from error
    if len(sides) != rank or not all(np.isfinite(side) and side > 0 for side in sides):
        raise _refuse(
            case, f"{rank} positive voxel sides in mm", f"{sides}", "give one per axis of the label"
        )
    return sides


def _affine(affine: Any, spacing: tuple[float, ...], case: str) -> np.ndarray:
    """The affine, which must have the sides that are scored; none, or the identity, says nothing but the sides."""
    plain = np.diag([*(spacing if len(spacing) == 3 else (1.0, 1.0, 1.0)), 1.0])
    if affine is None:
        return plain
    given = np.asarray(_array(affine, case, "affine"), np.float64)
    if given.shape != (4, 4) or not np.isfinite(given).all():
        raise _refuse(
            case, "a finite affine of shape (4, 4)", f"shape {given.shape}", "give voxel to world in mm"
        )
    if len(spacing) != 3 or np.array_equal(given[:3, :3], np.eye(3)):
        plain[:3, 3] = given[:3, 3]
        return plain if len(spacing) == 3 else given
    sides = spacing_of(given)
    if not np.allclose(sides, spacing, rtol=DISAGREEMENT, atol=0):
        found = f"{spacing} in spacing_mm and {sides} in the affine"
        raise _refuse(case, "one voxel spacing", found, "give the right one to both")
    if skew := skew_of(given):
        raise _refuse(case, RIGHT_ANGLES, skew, STRAIGHTEN)
    return given


def _check_window(volume: Volume) -> None:
    window = volume.window
    if not isinstance(window, IntensityWindow | ChannelWindows):
        raise _refuse(
            volume.id, "an IntensityWindow", type(window).__name__, "give IntensityWindow(low, high)"
        )
    if isinstance(window, ChannelWindows) and len(window.windows) != len(volume.image):
        raise _refuse(
            volume.id,
            f"a window for each of {len(volume.image)} channels",
            f"{len(window.windows)}",
            "add them",
        )


def _refuse(case: str, expected: str, found: str, remedy: str) -> DatasetError:
    return DatasetError(f"volume {case}: expected {expected}, found {found}; {remedy}")
