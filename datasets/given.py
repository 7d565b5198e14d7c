"""Cases as people have them in Python: arrays, tensors, MONAI's dictionaries and MetaTensors, batches of a loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from .base import DatasetError, IntensityWindow, Volume
from .geometry import spacing_of

_WAYS = "give (image, label) or {'image': ..., 'label': ...} for each case"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the caller says of all cases.

    Args:
        bounds: intensities that become 0 and 1; None for images that are in [0, 1].
        spacing_mm: voxel sides of cases that do not tell theirs.
        keys: of image and label in a dictionary.
        labels: how many overlapping labels a label volume ``(K, *spatial)`` holds; 0 for class ids.
    """

    bounds: tuple[float, float] | None = None
    spacing_mm: Sequence[float] | None = None
    keys: tuple[str, str] = ("image", "label")
    labels: int = 0


def read_given(data: Any, reading: Reading) -> tuple[Volume, ...]:
    """Volumes of whatever was given; still to be checked by :func:`~robustvox.datasets.bare.check_volumes`.

    Args:
        data: one case, cases one after another, or a mapping of ids to cases. A case is a :class:`Volume`, a pair of image
            and label, or a dictionary of both as MONAI's transforms make it. Batches of a loader are taken apart.
        reading: the caller's words.

    Raises:
        DatasetError: a case without a label, without voxel sides, or with intensities outside the bounds.

    Example:
        >>> image, label = np.full((4, 4, 4), 37.5), np.ones((4, 4, 4), int)
        >>> (volume,) = read_given([(image, label)], Reading(bounds=(-175, 250), spacing_mm=(1, 1, 2)))
        >>> volume.id, float(volume.image.max()), volume.spacing_mm
        ('case_000', 0.5, (1, 1, 2))
    """
    found = list(_cases(data, reading))
    named = [case.name for case in found]
    # Files of one name in many folders tell nobody apart.
    plain = len(set(named)) < len(named)
    return tuple(
        case.whole or _volume(case, f"case_{index:03d}" if plain or not case.name else case.name, reading)
        for index, case in enumerate(found)
    )


@dataclass(frozen=True)
class _Given:
    image: Any = None
    label: Any = None
    name: str = ""
    spacing_mm: Sequence[float] | None = None
    whole: Volume | None = None


def _cases(data: Any, reading: Reading) -> Iterator[_Given]:
    if isinstance(data, Mapping) and reading.keys[0] not in data:
        for name, case in data.items():
            yield from (_renamed(one, str(name)) for one in _case(case, reading))
    elif isinstance(data, Volume | Mapping) or _is_pair(data):
        yield from _case(data, reading)
    elif isinstance(data, Iterable) and not hasattr(data, "shape"):
        for case in data:
            yield from _case(case, reading)
    else:
        raise DatasetError(f"expected cases, found {_what(data)}; {_WAYS}")


def _renamed(case: _Given, name: str) -> _Given:
    if case.whole is not None:
        return case
    return _Given(case.image, case.label, name, case.spacing_mm)


def _case(case: Any, reading: Reading) -> Iterator[_Given]:
    if isinstance(case, Volume):
        yield _Given(name=str(case.id), whole=case)
        return
    spacing = None
    if isinstance(case, Mapping):
        image, label = (case.get(key) for key in reading.keys)
        name, spacing = str(case.get("id", "")), case.get("spacing_mm")
        if image is None or label is None:
            found = ", ".join(map(repr, list(case)[:8]))
            raise DatasetError(
                f"expected the keys {reading.keys[0]!r} and {reading.keys[1]!r} in a case, found {found}; say which "
                "with keys=(image, label)"
            )
    elif _is_pair(case):
        (image, label), name = case, ""
    else:
        raise DatasetError(f"expected an image and its label, found {_what(case)}; {_WAYS}")
    several = len(image) if _rank(image) == _rank(label) == 5 else 1
    if several > 1 and len(label) == several:
        for index in range(several):
            yield _Given(image[index], label[index], _file(image, index), spacing)
        return
    yield _Given(image, label, name or _file(image, 0), spacing)


def _is_pair(case: Any) -> bool:
    return isinstance(case, tuple | list) and len(case) == 2 and all(_rank(part) >= 2 for part in case)


def _rank(value: Any) -> int:
    return len(getattr(value, "shape", ()))


def _what(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape is not None else type(value).__name__


def _file(image: Any, index: int) -> str:
    """The name of the file a MetaTensor is from, without its endings."""
    named = _meta(image).get("filename_or_obj", "")
    if isinstance(named, list | tuple):
        named = named[index] if index < len(named) else ""
    return PurePath(str(named)).name.partition(".nii")[0].partition(".nrrd")[0]


def _meta(image: Any) -> Mapping[str, Any]:
    meta = getattr(image, "meta", None)
    return meta if isinstance(meta, Mapping) else {}


def _affine(image: Any) -> np.ndarray | None:
    """``(4, 4)`` of a MetaTensor; None where it says no more than the identity it has from nobody."""
    affine = getattr(image, "affine", None)
    if affine is None:
        return None
    affine = np.asarray(affine.detach().cpu() if hasattr(affine, "detach") else affine, np.float64)
    affine = affine[0] if affine.ndim == 3 else affine
    told = affine.shape == (4, 4) and (_file(image, 0) or not np.array_equal(affine, np.eye(4)))
    return affine if told else None


def _volume(case: _Given, name: str, reading: Reading) -> Volume:
    affine = _affine(case.image)
    spacing = case.spacing_mm if case.spacing_mm is not None else reading.spacing_mm
    if affine is not None and case.spacing_mm is None:
        spacing = spacing_of(affine)
    if spacing is None:
        raise DatasetError(
            f"volume {name}: expected the sides of a voxel, which HD95 in mm needs, found none; give spacing_mm=(1, 1, 1) "
            "or a MetaTensor with its affine"
        )
    low, high = reading.bounds or (0.0, 1.0)
    image = case.image if reading.bounds is None else _within(case.image, name, low, high)
    label = case.label if not reading.labels else _joined(case.label, name, reading.labels)
    return Volume(
        name,
        image,
        label,
        tuple(spacing),
        np.eye(4) if affine is None else affine,
        IntensityWindow(low, high),
    )


def _within(given: Any, name: str, low: float, high: float) -> np.ndarray:
    """An image between the bounds as one in [0, 1]."""
    image = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given, np.float64)
    found = (float(image.min(initial=low)), float(image.max(initial=low)))
    slack = 1e-5 * (high - low)
    if np.isfinite(image).all() and (found[0] < low - slack or found[1] > high + slack):
        raise DatasetError(
            f"volume {name}: expected intensities in the bounds {low:g}..{high:g}, found {found[0]:g}..{found[1]:g}; clip "
            "the image as your network's preprocessing does, or give wider bounds"
        )
    return np.clip((image - low) / (high - low), 0, 1).astype(np.float32)


def _joined(given: Any, name: str, labels: int) -> np.ndarray:
    """Overlapping labels ``(K, *spatial)`` of 0 and 1 as class ids, bit ``k`` for label ``k``."""
    label = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    label = label[0] if label.ndim == 5 and len(label) == 1 else label
    if label.ndim != 4 or len(label) != labels or not np.isin(label, (0, 1)).all():
        raise DatasetError(
            f"volume {name}: expected {labels} label volumes of 0 and 1, (K, *spatial), found {_what(given)}; stack one "
            "channel per label"
        )
    weights = 2 ** np.arange(labels).reshape(-1, 1, 1, 1)
    return (label.astype(np.int64) * weights).sum(0)
