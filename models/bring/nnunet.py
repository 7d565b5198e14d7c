"""Trained-model folders of nnU-Net v2: the plan's network with its weights, under nnU-Net's own inference.

nnU-Net itself is not needed, only the package with its network classes (``pip install robustvox[nnunet]``).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoint import file_sha256, load_strictly
from ..cpu import with_contiguous_gradients, with_fast_convolutions
from ..header import CheckpointError
from .brought import BroughtModel
from .configuration import read_json
from .nnunet_predictor import NnUNetPredictor, Normalization
from .weights import read_checkpoint

MODULE = "dynamic_network_architectures.architectures.unet"
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
OPERATIONS = (
    "Conv3d",
    "InstanceNorm3d",
    "BatchNorm3d",
    "Dropout3d",
    "LeakyReLU",
    "ReLU",
    "GELU",
    "ELU",
    "SiLU",
)
"""Classes of `torch.nn` that a plan may name."""
SCHEMES = ("ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "NoNormalization")
ABSOLUTE = ("CTNormalization", "NoNormalization")
READERS = ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient")


def load(
    folder: Path,
    *,
    in_channels: int,
    num_classes: int,
    fold: str = "0",
    checkpoint: str = "checkpoint_final.pth",
    overlap: float = 0.5,
    mode: str = "gaussian",
    sw_batch_size: int = 1,
    window: tuple[float, float] | None = None,
) -> BroughtModel:
    """The model of ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.

    Args:
        folder: with `plans.json`, `dataset.json` and `fold_X/checkpoint_final.pth`.
        in_channels: image channels of the data.
        num_classes: classes of the data, background included.
        fold: number or ``all``; several joined by ``+`` (``0+1+2``) are averaged.
        checkpoint: file in the fold's folder.
        overlap: one less nnU-Net's ``tile_step_size``.
        mode: ``"gaussian"`` or ``"constant"`` weights of the windows.
        sw_batch_size: windows per forward.
        window: original intensities that are 0 and 1 in the data; needed for CT.

    Raises:
        CheckpointError: a plan that cannot be followed (2d, cascade, regions, own preprocessing, another network),
            other channels or classes, a checkpoint of more than tensors and numbers, other weights.
    """
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    files = [folder / f"fold_{name}" / Path(checkpoint).name for name in fold.split("+")]
    contents = [_read(file, folder) for file in files]
    names = {_configuration_name(content, file) for content, file in zip(contents, files, strict=True)}
    if len(names) != 1:
        raise _refusal(folder, "folds of one configuration", ", ".join(sorted(names)), "name them one by one")
    plan = _configuration(plans, names.pop(), folder)
    _check_plan(plans, plan, folder)
    _check_data(dataset, in_channels, num_classes, folder)
    networks = [
        _network(plan, content, in_channels, num_classes, file.name, folder)
        for content, file in zip(contents, files, strict=True)
    ]
    if window is not None and not (
        isinstance(window, tuple) and len(window) == 2 and all(isinstance(v, int | float) for v in window)
    ):
        raise _refusal(folder, "window as (low, high)", repr(window), "write window=(-175,250)")
    normalizations = _normalizations(plans, plan, in_channels, window, folder)
    predictor = NnUNetPredictor(
        networks,
        normalizations,
        plan["patch_size"],
        plans["transpose_forward"],
        overlap=overlap,
        mode=mode,
        sw_batch_size=sw_batch_size,
        crop=window is None,
    ).eval()
    identity = [file_sha256(file) for file in (folder / "plans.json", folder / "dataset.json", *files)]
    return BroughtModel(
        name=folder.resolve().name,
        sha256=hashlib.sha256(repr((identity, window)).encode()).hexdigest(),
        roi_size=predictor.roi_size,
        predictor=predictor,
        notes=_notes(plans, window),
        spacing_mm=tuple(float(plan["spacing"][predictor.order.index(axis)]) for axis in range(3)),
    )


def _refusal(folder: Path, expected: str, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"expected {expected} in {folder.resolve().name}, found {found}; {remedy}")


def _read(file: Path, folder: Path) -> Mapping[str, Any]:
    if not file.is_file():
        present = sorted(p.relative_to(folder).as_posix() for p in folder.glob("fold_*/*.pth"))
        wanted = file.relative_to(folder).as_posix()
        raise _refusal(
            folder, wanted, ", ".join(present) or "no checkpoint", "choose with fold and checkpoint"
        )
    content = read_checkpoint(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise _refusal(
            folder, f"network_weights of nnU-Net v2 in {file.name}", "none", "give its own checkpoint"
        )
    return content


def _configuration_name(content: Mapping[str, Any], file: Path) -> str:
    name = (content.get("init_args") or {}).get("configuration")
    if not isinstance(name, str):
        raise CheckpointError(f"expected init_args.configuration in {file.name}, found none; train it again")
    return name


def _configuration(plans: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """A configuration of the plan, with what it inherits."""
    chain: list[Mapping[str, Any]] = []
    known, wanted = plans.get("configurations", {}), name
    while wanted is not None:
        if wanted not in known or len(chain) > len(known):
            raise _refusal(
                folder, f"configuration {wanted} in plans.json", ", ".join(known) or "none", "repair it"
            )
        chain.append(known[wanted])
        wanted = known[wanted].get("inherits_from")
    return {key: value for part in reversed(chain) for key, value in part.items()}


def _check_plan(plans: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> None:
    remedy = "bring the model with a factory, --model package.module:factory"
    if "architecture" not in plan:
        raise _refusal(
            folder, "architecture in plans.json", "a plan before nnU-Net 2.3", "plan again with a newer one"
        )
    if len(plan.get("patch_size", ())) != 3:
        raise _refusal(
            folder, "a 3d configuration", f"patch_size {plan.get('patch_size')}", "train 3d_fullres"
        )
    if plan.get("previous_stage") is not None:
        raise _refusal(
            folder, "a single stage", f"a cascade after {plan['previous_stage']}", "train 3d_fullres"
        )
    for what, found, known in (
        ("image_reader_writer", plans.get("image_reader_writer"), READERS),
        ("preprocessor_name", plan.get("preprocessor_name"), ("DefaultPreprocessor",)),
    ):
        if found not in known:
            raise _refusal(folder, f"{what} among {', '.join(known)}", str(found), remedy)
    if sorted(plans.get("transpose_forward", ())) != [0, 1, 2]:
        raise _refusal(
            folder, "transpose_forward of three axes", str(plans.get("transpose_forward")), "repair it"
        )


def _check_data(dataset: Mapping[str, Any], in_channels: int, num_classes: int, folder: Path) -> None:
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    if len(channels) != in_channels:
        raise _refusal(
            folder,
            f"{in_channels} image channel(s)",
            str(len(channels)),
            "give the dataset it was trained on",
        )
    labels = {key: value for key, value in dataset.get("labels", {}).items() if key != "ignore"}
    regions = [key for key, value in labels.items() if isinstance(value, list)]
    if regions:
        raise _refusal(
            folder, "one class per voxel", f"regions {', '.join(regions)}", "train it with plain labels"
        )
    if sorted(map(int, labels.values())) != list(range(num_classes)):
        found = ", ".join(f"{key}={value}" for key, value in labels.items())
        raise _refusal(folder, f"labels 0 to {num_classes - 1}", found, "give the dataset it was trained on")


def _normalizations(
    plans: Mapping[str, Any],
    plan: Mapping[str, Any],
    in_channels: int,
    window: tuple[float, float] | None,
    folder: Path,
) -> list[Normalization]:
    schemes, masks = plan.get("normalization_schemes", ()), plan.get("use_mask_for_norm", ())
    if len(schemes) != in_channels or len(masks) != in_channels:
        raise _refusal(
            folder, f"{in_channels} normalization_schemes", str(list(schemes)), "repair plans.json"
        )
    unknown = [scheme for scheme in schemes if scheme not in SCHEMES]
    if unknown:
        raise _refusal(
            folder, f"normalization among {', '.join(SCHEMES)}", ", ".join(unknown), "bring it with a factory"
        )
    absolute = [scheme for scheme in schemes if scheme in ABSOLUTE]
    if absolute and window is None:
        raise _refusal(
            folder,
            "the original intensities of 0 and 1 (window) for " + absolute[0],
            "none",
            "say the dataset's, for CT FOLDER:window=(-175,250)",
        )
    properties = plans.get("foreground_intensity_properties_per_channel", {})
    return [
        Normalization(scheme, bool(masked), properties.get(str(c), {}), window)
        for c, (scheme, masked) in enumerate(zip(schemes, masks, strict=True))
    ]


def _network(
    plan: Mapping[str, Any],
    content: Mapping[str, Any],
    in_channels: int,
    num_classes: int,
    name: str,
    folder: Path,
) -> nn.Module:
    target = str(plan["architecture"].get("network_class_name"))
    kind = target.rpartition(".")[2]
    if kind not in NETWORKS or target not in (kind, f"{MODULE}.{kind}"):
        raise _refusal(
            folder,
            f"a network of {MODULE} among {', '.join(NETWORKS)}",
            f"{target}, nothing was run",
            "bring it with a factory",
        )
    try:
        module = importlib.import_module(MODULE)
    except ImportError:
        raise CheckpointError(
            "expected the package dynamic-network-architectures, found none; pip install robustvox[nnunet]"
        ) from None
    arguments = dict(plan["architecture"].get("arch_kwargs", {}))
    for key in plan["architecture"].get("_kw_requires_import", ()):
        arguments[key] = _operation(arguments.get(key), folder)
    arguments["deep_supervision"] = False
    try:
        network = getattr(module, kind)(input_channels=in_channels, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise _refusal(
            folder, f"arguments of {kind}", str(error).split("\n")[0], "repair plans.json"
        ) from error
    weights: dict[str, Tensor] = dict(content["network_weights"])
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    load_strictly(network, weights, name)
    return with_contiguous_gradients(with_fast_convolutions(network)).eval()


def _operation(name: Any, folder: Path) -> Any:
    if name is None:
        return None
    kind = str(name).rpartition(".")[2]
    if not str(name).startswith("torch.nn.") or kind not in OPERATIONS:
        raise _refusal(
            folder,
            f"operations of torch.nn among {', '.join(OPERATIONS)}",
            f"{name}, nothing was run",
            "bring it with a factory",
        )
    return getattr(nn, kind)


def _notes(
    plans: Mapping[str, Any],
    window: tuple[float, float] | None,
) -> tuple[str, ...]:
    notes = ["test-time mirroring is off"]
    if plans["image_reader_writer"].endswith("WithReorient"):
        notes.append("trained on volumes in RAS orientation, and so should the data be")
    if window is None:
        notes.append(
            "intensities outside the data's window were clipped before nnU-Net's normalization, which does not clip"
        )
    return tuple(notes)
