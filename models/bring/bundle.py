"""MONAI bundles: the network of the configuration and its weights; nothing else of the bundle is used."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..activations import require_forward
from ..checkpoint import file_sha256
from ..class_order import in_order, require_channels, require_order
from ..documents import checked, read_document
from ..fast import with_fast_layers
from ..header import CheckpointError
from ..limits import require_window
from .brought import BroughtModel
from .configuration import Configuration
from .foreign import FAILURES, Foreign, check_window
from .preprocessing import Preprocessing, flat_transforms, read_preprocessing
from .schemas import Metadata
from .transforms import Orientation
from .weights import load_network, read_state

NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "DynUNet",
    "FlexibleUNet",
    "HighResNet",
    "MedNeXt",
    "MedNeXtB",
    "MedNeXtL",
    "MedNeXtM",
    "MedNeXtS",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNETR",
    "UNet",
    "VNet",
)
"""Classes of `monai.networks.nets` that a bundle may name: they segment, and building one runs only MONAI's code."""

CONFIGURATIONS = tuple(
    f"{what}.{kind}" for what in ("inference", "train") for kind in ("json", "yaml", "yml")
)
DEFINITIONS = ("network_def", "network", "net", "model")
WEIGHTS = ("model.safetensors", "model.pt", "model.pth")

READING = 2
"""Counts the ways in which files were read here, so that records of an earlier way are not taken for today's."""

AS_STORED = "axes as stored in the file"

SILENT = (
    "Activations", "AsDiscrete", "Invert", "EnsureType", "SaveImage", "SelectItems", "Identity", "ToTensor", "ToDevice",
    "Decollate", "CopyItems", "DeleteItems", "CastToType",
)  # fmt: skip
"""Postprocessing that decides no class, or that the grid we score and the argmax do anyway."""

REMEDY = "bring the model with a factory, --model package.module:factory"


def load(
    path: Path,
    *,
    in_channels: int,
    num_classes: int,
    roi_size: Sequence[int],
    legacy_merging: bool | None = None,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
) -> BroughtModel:
    """The network of a bundle folder, with its weights and its window.

    Args:
        path: folder with `configs/metadata.json`, a configuration and `models/model.pt`.
        in_channels: image channels of the data.
        num_classes: classes of the data.
        roi_size: window where the bundle names none.
        legacy_merging: for a SwinUNETR, the patch merging of MONAI before 1.5; default as the bundle's
            `monai_version` says.
        class_names: of the data; a bundle that has the same ones in another order is refused.
        channel_names: of the data, likewise.

    Raises:
        CheckpointError: a network that is not one of ``NETWORKS`` or whose arguments would run code, images that are
            not in [0, 1], overlapping classes, other channels or classes, missing or extra weights.
    """
    metadata = read_document(path / "configs" / "metadata.json")
    checked(Metadata, metadata, "metadata.json")
    config = _configuration(path)
    notes = _check_metadata(metadata, in_channels, num_classes, class_names)
    require_channels(in_order(_format(metadata, "inputs").get("channel_def")), channel_names, "metadata.json")
    preprocessing = read_preprocessing(config, before_1_5=_before_1_5(metadata))
    _check_values(metadata, preprocessing)
    target, arguments = _definition(config)
    notes += _check_postprocessing(config)
    notes += _modernize(target, arguments, metadata, legacy_merging)
    window = _window(config, metadata, len(roi_size))
    own_window = window is not None
    if window is None:
        window = tuple(roi_size)
        notes.append(f"the bundle names no window; the data's {window} is used")
    if arguments.get("spatial_dims", len(window)) != len(window):
        raise CheckpointError(
            f"expected a network of {len(roi_size)} spatial axes in {config.source}, found "
            f"spatial_dims {arguments['spatial_dims']}; {REMEDY}"
        )
    weights = _weights(path)
    require_window(window, in_channels + num_classes, path.resolve().name)
    _check_counts(arguments, config, in_channels, num_classes)

    def build(channels: int, classes: int) -> nn.Module:
        return _build(target, {**arguments, "in_channels": channels, "out_channels": classes}, config)

    network = load_network(
        build, read_state(weights), in_channels=in_channels, num_classes=num_classes, name=weights.name
    )
    name = path.resolve().name
    require_forward(network, in_channels=in_channels, roi_size=window, what=name)
    try:
        check_window(network, name, in_channels=in_channels, num_classes=num_classes, roi_size=window)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    steps = repr(preprocessing.steps) if preprocessing is not None else ""
    identity = json.dumps(
        [READING, target, arguments, window, steps, file_sha256(weights)], sort_keys=True, default=repr
    )
    return BroughtModel(
        name=name,
        sha256=hashlib.sha256(identity.encode()).hexdigest(),
        roi_size=window,
        network=Foreign(with_fast_layers(network), name),
        notes=tuple(notes + _said(preprocessing)),
        own_window=own_window,
        preprocessing=preprocessing.steps if preprocessing is not None else (),
    )


def _configuration(path: Path) -> Configuration:
    for name in CONFIGURATIONS:
        file = path / "configs" / name
        if file.is_file():
            content = read_document(file)
            if any(key in content for key in DEFINITIONS):
                return Configuration(content, name)
    present = sorted(p.name for p in (path / "configs").iterdir())
    raise CheckpointError(
        f"expected {' or '.join(CONFIGURATIONS)} with a network ({', '.join(DEFINITIONS)}) in the bundle "
        f"{path.name}, found {', '.join(present)}; {REMEDY}"
    )


def _definition(config: Configuration) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of the network."""
    where = next(key for key in DEFINITIONS if key in config.content)
    raw = config.content[where]
    for _ in DEFINITIONS:
        # `$@network_def.to(@device)` puts the network somewhere; where is decided here.
        found = (
            re.fullmatch(r"\$?\s*@(\w+)\s*(?:\.to\(\s*@?\w+\s*\))?", raw) if isinstance(raw, str) else None
        )
        if found is None:
            break
        where, raw = found[1], config.get(found[1])
    if not isinstance(raw, Mapping) or "_target_" not in raw:
        raise config.refusal(str(raw), where, "is not a class with its arguments")
    target = str(raw["_target_"])
    name = target.rpartition(".")[2]
    if name not in NETWORKS or not (target == name or target.startswith("monai.networks.nets.")):
        raise CheckpointError(
            f"expected a network of monai.networks.nets among {', '.join(NETWORKS)} in {config.source}, found "
            f'_target_ "{target}" at {where}, which would be imported and called; nothing was run: {REMEDY}'
        )
    for key in ("_requires_", "_mode_", "_disabled_"):
        if raw.get(key) not in (None, "default", False, "false", []):
            raise config.refusal(f"{key}: {raw[key]}", where, "is not followed")
    arguments = {
        key: config.literal(value, f"{where}::{key}") for key, value in raw.items() if not key.startswith("_")
    }
    if arguments.get("pretrained"):
        raise CheckpointError(
            f"expected the weights in the bundle, found pretrained: true in {config.source}, which would download; "
            "set it to false"
        )
    return name, arguments


def _build(target: str, arguments: Mapping[str, Any], config: Configuration) -> nn.Module:
    import monai.networks.nets

    try:
        return getattr(monai.networks.nets, target)(**arguments)
    except CheckpointError:
        raise
    except FAILURES as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"expected arguments of {target} in {config.source}, found: {first}; correct the bundle"
        ) from error


def _before_1_5(metadata: Mapping[str, Any]) -> bool:
    """Whether a bundle is for a MONAI that merged patches and cropped otherwise."""
    numbers = re.match(r"(\d+)\.(\d+)", str(metadata.get("monai_version", "")))
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (1, 5)


def _modernize(
    target: str, arguments: dict[str, Any], metadata: Mapping[str, Any], legacy_merging: bool | None
) -> list[str]:
    """Change arguments of older MONAI in place to what the installed one takes; say what matters."""
    if target == "UNETR" and "pos_embed" in arguments:
        arguments.setdefault("proj_type", arguments.pop("pos_embed"))
    if target != "SwinUNETR":
        if legacy_merging is not None:
            raise CheckpointError(f"expected legacy_merging with a SwinUNETR only, found {target}; drop it")
        return []
    arguments.pop("img_size", None)
    if arguments.get("downsample", "merging") != "merging":
        return []
    version = str(metadata.get("monai_version", ""))
    if legacy_merging is None:
        legacy_merging = _before_1_5(metadata)
    if legacy_merging:
        from .legacy import LegacyPatchMerging

        arguments["downsample"] = LegacyPatchMerging
    which = "before 1.5" if legacy_merging else "1.5 and later"
    return [
        f"patch merging of MONAI {which} (the bundle is for {version or 'an unnamed version'}); "
        f"legacy_merging={str(not legacy_merging).lower()} takes the other"
    ]


def _format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """The first input or output of `network_data_format`."""
    formats = metadata.get("network_data_format", {})
    named = formats.get(side, {}) if isinstance(formats, Mapping) else {}
    first = next(iter(named.values()), {}) if isinstance(named, Mapping) else {}
    return first if isinstance(first, Mapping) else {}


def _check_metadata(
    metadata: Mapping[str, Any], in_channels: int, num_classes: int, class_names: Sequence[str]
) -> list[str]:
    image, prediction = _format(metadata, "inputs"), _format(metadata, "outputs")
    found = image.get("num_channels", in_channels), prediction.get("num_channels", num_classes)
    if found != (in_channels, num_classes):
        raise CheckpointError(
            f"expected a bundle for {in_channels} image channel(s) and {num_classes} classes, found {found[0]} and "
            f"{found[1]} in metadata.json; give the dataset it was trained on"
        )
    classes = prediction.get("channel_def")
    if isinstance(classes, Mapping) and classes:
        names = in_order(classes) or tuple(map(str, classes.values()))
        require_order(names, class_names, "metadata.json")
        return [f"its classes, in order: {', '.join(names)}; the data's must be the same"]
    return []


def _check_counts(
    arguments: Mapping[str, Any], config: Configuration, in_channels: int, num_classes: int
) -> None:
    found = arguments.get("in_channels", in_channels), arguments.get("out_channels", num_classes)
    if found != (in_channels, num_classes):
        raise CheckpointError(
            f"expected a network for {in_channels} image channel(s) and {num_classes} classes, found {found[0]} and "
            f"{found[1]} in {config.source}; give the dataset it was trained on"
        )


def _check_values(metadata: Mapping[str, Any], preprocessing: Preprocessing | None) -> None:
    """Refuse a range of values that nothing here gives the network.

    The preprocessing decides; the metadata are believed where there is none, and where they contradict it.
    """
    values = _format(metadata, "inputs").get("value_range")
    if not (isinstance(values, list) and len(values) == 2) or values == [0, 1]:
        return
    given = (0.0, 1.0) if preprocessing is None else preprocessing.values
    if given is not None and list(given) != values:
        what = "without a preprocessing" if preprocessing is None else "of its preprocessing"
        raise CheckpointError(
            f"expected a network of images in [{given[0]:g}, {given[1]:g}] {what}, found value_range {values} in "
            f"metadata.json; {REMEDY} that scales the images first"
        )


def _check_postprocessing(config: Configuration) -> list[str]:
    """Refuse classes that overlap, however the bundle writes it; name what else it does and we do not."""
    left_out: list[str] = []
    for place in ("postprocessing", "validate::postprocessing"):
        for step, where in flat_transforms(config, place):
            name = str(step.get("_target_")).rpartition(".")[2]
            found = None
            if name.startswith("Lambda"):
                found = f"{name} {step.get('func')}, which may be a sigmoid,"
            elif name.startswith("Activations"):
                if _truthy(config, step.get("sigmoid", False), f"{where}::sigmoid"):
                    found = "sigmoid"
                elif step.get("other") is not None:
                    found = f"other {step['other']}"
            elif name.startswith("AsDiscrete") and step.get("threshold") is not None:
                threshold = config.literal(step["threshold"], f"{where}::threshold")
                listed = threshold if isinstance(threshold, list) else [threshold]
                # True for the prediction and None for the label is how lists are written.
                if any(value is not None and value is not False for value in listed):
                    found = f"threshold {threshold}"
            if found is not None:
                raise CheckpointError(
                    f"expected one class per voxel, found overlapping ones ({found}) in the postprocessing of "
                    f"{config.source}; {REMEDY} that returns logits of exclusive classes"
                )
            if not name.startswith(SILENT):
                left_out.append(name)
        if left_out:
            return [f"its postprocessing is not done: {', '.join(dict.fromkeys(left_out))}"]
    return []


def _truthy(config: Configuration, value: Any, where: str) -> bool:
    found = config.literal(value, where)
    return any(found) if isinstance(found, list) else bool(found)


def _said(preprocessing: Preprocessing | None) -> list[str]:
    if preprocessing is None:
        return ["the bundle declares no preprocessing; it gets images in [0, 1] on the grid of the data"]
    if not preprocessing.said:
        return [f"its preprocessing changes nothing; it gets the intensities of the file, {AS_STORED}"]
    turned = any(isinstance(step, Orientation) for step in preprocessing.steps)
    axes = "" if turned else f"; it names no Orientation: {AS_STORED}"
    return [f"its own preprocessing is done inside the model: {', '.join(preprocessing.said)}{axes}"]


def _window(config: Configuration, metadata: Mapping[str, Any], axes: int) -> tuple[int, ...] | None:
    """The inferer's `roi_size`, else the patch of the metadata; None where neither is plain."""
    inferer = config.content.get("inferer")
    if isinstance(inferer, Mapping) and "roi_size" in inferer:
        window = config.literal(inferer["roi_size"], "inferer::roi_size")
    else:
        image = _format(metadata, "inputs")
        window = image.get("spatial_shape") if image.get("is_patch_data") else None
    if isinstance(window, int):
        window = [window] * axes
    if not isinstance(window, list) or len(window) != axes:
        return None
    return tuple(window) if all(isinstance(side, int) and side > 0 for side in window) else None


def _weights(path: Path) -> Path:
    folder = path / "models"
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        present = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else ""
        code = "; model.ts is TorchScript, which is code" if "model.ts" in present else ""
        raise CheckpointError(
            f"expected the weights {' or '.join(WEIGHTS)} in the folder models of {path.name}, found "
            f"{present or 'none'}{code}; fetch the bundle's large files"
        )
    return found
