"""The preprocessing a MONAI bundle declares, read as data: steps that are followed, or a refusal that names one.

What a bundle feeds its network is what its `preprocessing` says, not what its metadata say. Each transform is followed,
means nothing here (reading a file, a type), or is refused by name; none is passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ..header import CheckpointError
from . import transforms as steps
from .configuration import NAME, Configuration

PLACES = (
    "preprocessing",
    "validate::preprocessing",
    "dataset::transform",
    "validate::dataset::transform",
    "val_transforms",
    "transforms",
)
"""Where bundles keep what is done to an image that is segmented, the first one that is there."""

AFTER = ("postprocess", "post_transforms", "inverse")
"""In the name of a place that is for predictions."""

NOTHING = frozenset(
    ("LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "ToDevice", "Identity", "SelectItems")
)
"""Transforms that change neither values nor grid of an image that was read."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Spacing": {
        "diagonal": False, "padding_mode": "border", "align_corners": None, "scale_extent": False,
        "recompute_affine": False, "min_pixdim": None, "max_pixdim": None,
    },
    "Orientation": {"as_closest_canonical": False, "labels": None},
    "CropForeground": {"channel_indices": None, "k_divisible": 1, "mode": "constant"},
    "SpatialPad": {"mode": "constant"},
    "ClipIntensityPercentiles": {"sharpness_factor": None},
}  # fmt: skip
"""Arguments that are followed at one value only."""

IDLE = frozenset(
    ("keys", "allow_missing_keys", "lazy", "dtype", "meta_keys", "meta_key_postfix", "image_only", "start_coord_key",
     "end_coord_key", "ensure_same_shape", "return_clipping_values", "save_pixdim")
)  # fmt: skip
"""Arguments that change nothing of a single image."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to an image before the windows.

    Args:
        steps: in their order; none where nothing changes values or grid.
        said: the transforms with their arguments, for people.
        spacing_mm: of the last `Spacing`, in its axes.
        values: what the last step clips to; None where it does not.
    """

    steps: tuple[steps.Step, ...]
    said: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None
    values: tuple[float, float] | None


def read_preprocessing(config: Configuration, *, before_1_5: bool = False) -> Preprocessing | None:
    """The preprocessing of a configuration; None where it declares none.

    Args:
        config: of the bundle.
        before_1_5: the bundle is for a MONAI whose `CropForeground` cuts off a margin that leaves the image.

    Raises:
        CheckpointError: a transform, or an argument of one, that is not followed.
    """
    place = _place(config)
    if place is None:
        return None
    listed = flat_transforms(config, place)
    image = _image_key(config, listed)
    found: list[steps.Step] = []
    said: list[str] = []
    for raw, where in listed:
        name = _name(raw)
        if _disabled(config, raw, where) or not _concerns(config, raw, where, image):
            continue
        # Whole numbers would be rounded.
        dtype = str(raw.get("dtype") or "float32")
        rounds = "float" not in str(config.get(dtype[1:]) if dtype.startswith("@") else dtype)
        if name in (*NOTHING, "CastToType") and not rounds:
            continue
        if name not in MAKERS:
            raise CheckpointError(
                f"expected transforms among {', '.join(sorted({*MAKERS, *NOTHING}))} in the preprocessing of "
                f"{config.source}, found {raw.get('_target_')}{' to integers' if rounds else ''} at {where}, which is not followed; bring the model with a "
                "factory, --model package.module:factory, that does it inside"
            )
        arguments = _arguments(config, raw, where, name, image)
        if name == "CropForeground" and arguments.get("margin"):
            arguments.setdefault("allow_smaller", before_1_5)
        try:
            found.append(_sensible(MAKERS[name](dict(arguments))))
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise CheckpointError(
                f"expected arguments of {name} at {where} in {config.source}, found: {error!r}; correct the bundle"
            ) from error
        said.append(_said(name, arguments))
    spacings = [step.pixdim for step in found if isinstance(step, steps.Spacing)]
    return Preprocessing(
        steps=tuple(found),
        said=tuple(said),
        spacing_mm=spacings[-1] if spacings else None,
        values=_values(found),
    )


def _sensible(step: steps.Step) -> steps.Step:
    """The step itself, if its arguments are of the types it declares and mean something.

    Raises:
        ValueError: a text where a number is due, NaN, an empty or reversed window, a divisor of 0, a size nobody pads to.
    """
    values: dict[str, Any] = asdict(step)  # type: ignore[call-overload]
    # As JSON, in which strict types still let a list be a tuple.
    TypeAdapter(type(step)).validate_json(json.dumps(values), strict=True)
    flat = [v for value in values.values() for v in (value if isinstance(value, list | tuple) else [value])]
    if not all(math.isfinite(v) for v in flat if isinstance(v, int | float)):
        raise ValueError(f"{values}, every number must be finite")
    if isinstance(step, steps.ScaleIntensityRange) and not step.a_min < step.a_max:
        raise ValueError(f"a window from {step.a_min:g} to {step.a_max:g}, the low end comes first")
    if isinstance(step, steps.ScaleIntensityRangePercentiles) and not 0 <= step.lower < step.upper <= 100:
        raise ValueError(f"percentiles {step.lower:g} and {step.upper:g}")
    if isinstance(step, steps.ClipIntensityPercentiles):
        low, high = (0 if step.lower is None else step.lower), (100 if step.upper is None else step.upper)
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles {low:g} and {high:g}")
    if isinstance(step, steps.NormalizeIntensity) and 0 in np.atleast_1d(np.asarray(step.divisor or 1.0)):
        raise ValueError("a divisor of 0")
    if isinstance(step, steps.SpatialPad) and not all(-1 <= size <= 4096 for size in step.spatial_size):
        raise ValueError(f"a padded size of {step.spatial_size}")
    return step


def _place(config: Configuration) -> str | None:
    """Where the preprocessing stands: under a usual name, else wherever transforms begin by reading a file.

    Raises:
        CheckpointError: two chains that read files, under no usual name.
    """
    usual = next((place for place in PLACES if _raw(config, place) is not None), None)
    if usual is not None:
        return usual
    found = [place for place in _chains(config.content, "") if not any(word in place for word in AFTER)]
    if len(found) > 1:
        raise CheckpointError(
            f"expected one preprocessing in {config.source}, found {', '.join(found)}; call the one for inference "
            f"{PLACES[0]}"
        )
    return found[0] if found else None


def _chains(value: Any, where: str) -> Iterator[str]:
    """Places of lists and `Compose`s of transforms that read a file."""
    if isinstance(value, Mapping) and "_target_" in value and _name(value) == "Compose":
        if any(isinstance(t, Mapping) and _name(t) == "LoadImage" for t in value.get("transforms") or ()):
            yield where
    elif isinstance(value, list) and any(isinstance(t, Mapping) and _name(t) == "LoadImage" for t in value):
        yield where
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _chains(item, f"{where}::{key}" if where else str(key))


def flat_transforms(config: Configuration, place: str) -> list[tuple[Mapping[str, Any], str]]:
    """The transforms at a place such as ``postprocessing``, each with where it stands; none where there is no such place.

    Raises:
        CheckpointError: one that would run as Python.
    """
    return list(_flat(config, _raw(config, place), place))


def _raw(config: Configuration, place: str) -> Any:
    value: Any = config.content
    for part in place.split("::"):
        if isinstance(value, str) and re.fullmatch(f"@{NAME}", value):
            value = config.get(value[1:])
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _flat(
    config: Configuration, raw: Any, where: str, depth: int = 0
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every transform of a `Compose`, a list, a reference to one or a sum of references."""
    if depth > 20:
        raise CheckpointError(
            f"expected references with an end in {config.source}, found {where}; correct it"
        )
    if raw is None:
        return
    if isinstance(raw, str):
        sum_of = re.fullmatch(rf"\$?\s*@{NAME}(?:\s*\+\s*@{NAME})*\s*", raw)
        if sum_of is None or (not raw.startswith("$") and "+" in raw):
            raise config.refusal(raw, where, "would run as Python")
        for name in re.findall(f"@({NAME})", raw):
            yield from _flat(config, config.get(name), name, depth + 1)
    elif isinstance(raw, list):
        for index, item in enumerate(raw):
            yield from _flat(config, item, f"{where}::{index}", depth + 1)
    elif isinstance(raw, Mapping) and _name(raw) == "Compose":
        if not _disabled(config, raw, where):
            yield from _flat(config, raw.get("transforms"), f"{where}::transforms", depth + 1)
    elif isinstance(raw, Mapping) and "_target_" in raw:
        yield raw, where
    else:
        raise config.refusal(str(raw), where, "is no transform")


def _name(raw: Mapping[str, Any]) -> str:
    """Class of a transform without module and without the endings of its variants for dictionaries.

    Example:
        >>> [_name({"_target_": t}) for t in ("monai.transforms.Spacingd", "ScaleIntensityDict", "Identity")]
        ['Spacing', 'ScaleIntensity', 'Identity']
    """
    target = str(raw.get("_target_"))
    module, _, name = target.rpartition(".")
    if module and not module.startswith("monai.transforms"):
        return target
    for ending in ("Dict", "d", "D"):
        short = name.removesuffix(ending)
        if short != name and (short in MAKERS or short in NOTHING or short in ("CastToType",)):
            return short
    return name


def _disabled(config: Configuration, raw: Mapping[str, Any], where: str) -> bool:
    flag = config.literal(raw.get("_disabled_", False), f"{where}::_disabled_")
    return flag if isinstance(flag, bool) else str(flag).lower() == "true"


def _keys(config: Configuration, raw: Mapping[str, Any], where: str) -> list[str] | None:
    if "keys" not in raw:
        return None
    keys = config.literal(raw["keys"], f"{where}::keys")
    return [str(key) for key in keys] if isinstance(keys, list) else [str(keys)]


def _image_key(config: Configuration, listed: Sequence[tuple[Mapping[str, Any], str]]) -> str:
    """The key that holds the image: the first one that is read."""
    reading = [_keys(config, raw, where) for raw, where in listed if _name(raw) == "LoadImage"]
    first = next((keys for keys in reading if keys), ["image"])
    return "image" if "image" in first else first[0]


def _concerns(config: Configuration, raw: Mapping[str, Any], where: str, image: str) -> bool:
    keys = _keys(config, raw, where)
    return keys is None or image in keys


def _arguments(
    config: Configuration, raw: Mapping[str, Any], where: str, name: str, image: str
) -> dict[str, Any]:
    """Arguments of a transform for the image; those it takes at one value only are checked and dropped."""
    keys = _keys(config, raw, where) or [image]
    arguments: dict[str, Any] = {}
    for key, value in raw.items():
        if key.startswith("_") or key in IDLE:
            continue
        value = config.literal(value, f"{where}::{key}")
        if key == "source_key":
            if value != image:
                raise CheckpointError(
                    f"expected {name} by the image ({image}) at {where} in {config.source}, found source_key {value!r}, which "
                    "a network has not when it is used; correct the bundle"
                )
            continue
        if key in ("mode", "padding_mode", "align_corners") and isinstance(value, list):
            value = value[keys.index(image)]
        fixed = DEFAULTS.get(name, {})
        if key == "labels" and value == [["L", "R"], ["P", "A"], ["I", "S"]]:
            continue  # what None means
        if key in fixed:
            if value != fixed[key] and not (key == "align_corners" and value in (True, False)):
                raise CheckpointError(
                    f"expected {name} with {key} {fixed[key]} at {where} in {config.source}, found {value!r}, which is not "
                    "followed; bring the model with a factory, --model package.module:factory"
                )
            continue
        arguments[key] = value
    return arguments


def _said(name: str, arguments: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key} {value}" for key, value in arguments.items() if key != "mode")
    own = {"ScaleIntensityRange": "a_min", "Spacing": "pixdim", "Orientation": "axcodes"}
    return listed if own.get(name) in arguments else f"{name}{f' ({listed})' if listed else ''}"


def _values(found: Sequence[steps.Step]) -> tuple[float, float] | None:
    """The range the last change of intensities clips to, where it is one."""
    changes = [
        s for s in found if not isinstance(s, steps.Orientation | steps.Spacing | steps.CropForeground)
    ]
    last = changes[-1] if changes else None
    if isinstance(last, steps.ScaleIntensityRange) and last.clip and last.b_min is not None:
        return (last.b_min, last.b_max) if last.b_max is not None else None
    if isinstance(last, steps.ScaleIntensity) and last.minv is not None and last.maxv is not None:
        return last.minv, last.maxv
    return None


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, list) else (float(value),)


def _spacing(given: dict[str, Any]) -> steps.Step:
    mode = given.pop("mode", "bilinear")
    if mode not in ("bilinear", 1):
        raise ValueError(f"mode {mode!r}, only bilinear is followed for an image")
    pixdim = _numbers(given.pop("pixdim"))
    if min(pixdim) <= 0:
        raise ValueError(f"pixdim {list(pixdim)}, every side must be above 0")
    return steps.Spacing(pixdim=pixdim, **given)


def _crop(given: dict[str, Any]) -> steps.Step:
    margin = given.pop("margin", 0)
    return steps.CropForeground(margin=tuple(margin) if isinstance(margin, list) else int(margin), **given)


def _pad(given: dict[str, Any]) -> steps.Step:
    size = given.pop("spatial_size")
    return steps.SpatialPad(
        spatial_size=tuple(int(s) for s in size) if isinstance(size, list) else (int(size),) * 3,
        symmetric=str(given.pop("method", "symmetric")) == "symmetric",
        value=float(given.pop("value", given.pop("constant_values", 0.0))),
        **given,
    )


MAKERS: dict[str, Callable[[dict[str, Any]], steps.Step]] = {
    "ScaleIntensityRange": lambda given: steps.ScaleIntensityRange(**given),
    "ScaleIntensityRangePercentiles": lambda given: steps.ScaleIntensityRangePercentiles(**given),
    "ClipIntensityPercentiles": lambda given: steps.ClipIntensityPercentiles(**given),
    "ScaleIntensity": lambda given: steps.ScaleIntensity(**given),
    "NormalizeIntensity": lambda given: steps.NormalizeIntensity(**given),
    "ThresholdIntensity": lambda given: steps.ThresholdIntensity(**given),
    "Orientation": lambda given: steps.Orientation(**given),
    "Spacing": _spacing,
    "CropForeground": _crop,
    "SpatialPad": _pad,
}
"""Transforms that are followed."""
