"""The plan of an nnU-Net v2 model, as this suite can follow it: checked, inherited, and brought to today's form."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoint import load_strictly
from ..cpu import with_contiguous_gradients
from ..fast import with_fast_layers
from ..header import CheckpointError
from ..limits import build_within
from ..resampling import NnUNetResampling
from .foreign import FAILURES
from .nnunet_predictor import Normalization

MODULE = "dynamic_network_architectures.architectures.unet"
MODULES = (MODULE, "dynamic_network_architectures.architectures.residual_unet")
"""Where plans say the networks are; the second is what plans before nnU-Net 2.3 are converted to."""
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
INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""What `CTNormalization` needs of the training set."""
READERS = ("SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient")


def refusal(folder: Path, expected: str, found: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"expected {expected} in {folder.resolve().name}, found {found}; {remedy}")


def configuration(plans: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """A configuration of the plan, with what it inherits."""
    chain: list[Mapping[str, Any]] = []
    known, wanted = plans.get("configurations", {}), name
    while wanted is not None:
        if wanted not in known or len(chain) > len(known):
            raise refusal(
                folder, f"configuration {wanted} in plans.json", ", ".join(known) or "none", "repair it"
            )
        chain.append(known[wanted])
        wanted = known[wanted].get("inherits_from")
    plan = {key: value for part in reversed(chain) for key, value in part.items()}
    return plan if "architecture" in plan else _converted(plan, folder)


def _converted(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration of nnU-Net before 2.3 with the ``architecture`` that nnU-Net itself makes of it.

    As `ConfigurationManager` of nnunetv2 does: 2 ** stage times the base number of features up to a maximum, biases,
    instance normalization, leaky ReLU.
    """
    kind = plan.get("UNet_class_name")
    if kind not in NETWORKS:
        raise refusal(
            folder,
            f"architecture, or UNet_class_name among {', '.join(NETWORKS)}, in plans.json",
            str(kind),
            "plan again with a newer nnU-Net",
        )
    wanted = (
        "n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "UNet_base_num_features", "unet_max_num_features",
        "pool_op_kernel_sizes", "conv_kernel_sizes",
    )  # fmt: skip
    lost = [key for key in wanted if plan.get(key) is None]
    if lost:
        raise refusal(folder, f"{', '.join(lost)} in plans.json", "none", "repair it")
    stages = len(plan["n_conv_per_stage_encoder"])
    per_stage = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "n_stages": stages,
        "features_per_stage": [
            min(plan["UNet_base_num_features"] * 2**i, plan["unet_max_num_features"]) for i in range(stages)
        ],
        "conv_op": "torch.nn.Conv3d",
        "kernel_sizes": plan["conv_kernel_sizes"],
        "strides": plan["pool_op_kernel_sizes"],
        per_stage: plan["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": plan["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    architecture = {
        "network_class_name": kind,
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    return {**plan, "architecture": architecture}


def resampling(plan: Mapping[str, Any], folder: Path) -> tuple[NnUNetResampling, NnUNetResampling]:
    """How the plan resamples images, and logits back.

    Raises:
        CheckpointError: by a function or with arguments that are not known.
    """
    try:
        images, logits = (
            NnUNetResampling.of(
                plan.get(f"resampling_fn_{what}", "resample_data_or_seg_to_shape"),
                plan.get(f"resampling_fn_{what}_kwargs", {"order": order}),
            )
            for what, order in (("data", 3), ("probabilities", 1))
        )
    except (ValueError, TypeError) as error:
        expected, _, found = str(error).partition(", found ")
        raise refusal(folder, expected, found, "bring the model with a factory") from error
    return images, logits


def check_plan(plans: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> None:
    remedy = "bring the model with a factory, --model package.module:factory"
    if len(plan.get("patch_size") or ()) != 3:
        raise refusal(
            folder, "a 3d configuration", f"patch_size {plan.get('patch_size')}", "train 3d_fullres"
        )
    if plan.get("previous_stage") is not None:
        raise refusal(
            folder, "a single stage", f"a cascade after {plan['previous_stage']}", "train 3d_fullres"
        )
    for what, found, known in (
        ("image_reader_writer", plans.get("image_reader_writer"), READERS),
        ("preprocessor_name", plan.get("preprocessor_name"), ("DefaultPreprocessor",)),
    ):
        if found not in known:
            raise refusal(folder, f"{what} among {', '.join(known)}", str(found), remedy)
    if len(plan.get("spacing") or ()) != 3:
        raise refusal(folder, "a spacing of three sides in plans.json", str(plan.get("spacing")), "repair it")
    if sorted(plans.get("transpose_forward") or ()) != [0, 1, 2]:
        raise refusal(
            folder, "transpose_forward of three axes", str(plans.get("transpose_forward")), "repair it"
        )


def check_data(dataset: Mapping[str, Any], in_channels: int, num_classes: int, folder: Path) -> list[str]:
    """The names of the classes in their order, once channels and classes are those of the data."""
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    if len(channels) != in_channels:
        raise refusal(
            folder,
            f"{in_channels} image channel(s)",
            str(len(channels)),
            "give the dataset it was trained on",
        )
    # A class to ignore has no logit; a list of one class is that class.
    labels: dict[str, Any] = {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in dataset.get("labels", {}).items()
        if key != "ignore"
    }
    regions = [key for key, value in labels.items() if isinstance(value, list)]
    if regions:
        raise refusal(
            folder, "one class per voxel", f"regions {', '.join(regions)}", "train it with plain labels"
        )
    if sorted(int(value) for value in labels.values()) != list(range(num_classes)):
        found = ", ".join(f"{key}={value}" for key, value in labels.items())
        raise refusal(folder, f"labels 0 to {num_classes - 1}", found, "give the dataset it was trained on")
    return sorted(labels, key=lambda name: int(labels[name]))


def normalizations(
    plans: Mapping[str, Any],
    plan: Mapping[str, Any],
    in_channels: int,
    window: tuple[float, float] | None,
    folder: Path,
) -> list[Normalization]:
    schemes, masks = plan.get("normalization_schemes") or (), plan.get("use_mask_for_norm") or ()
    if len(schemes) != in_channels or len(masks) != in_channels:
        raise refusal(folder, f"{in_channels} normalization_schemes", str(list(schemes)), "repair plans.json")
    unknown = [scheme for scheme in schemes if scheme not in SCHEMES]
    if unknown:
        raise refusal(
            folder, f"normalization among {', '.join(SCHEMES)}", ", ".join(unknown), "bring it with a factory"
        )
    properties = (
        plans.get("foreground_intensity_properties_per_channel")
        or plans.get("foreground_intensity_properties_by_modality")
        or {}
    )
    for c, scheme in enumerate(schemes):
        told = properties.get(str(c), {})
        lost = [key for key in INTENSITIES if told.get(key) is None]
        if scheme == "CTNormalization" and lost:
            raise refusal(
                folder, f"{', '.join(lost)} of the intensities of channel {c}", "none", "repair plans.json"
            )
        if scheme == "CTNormalization" and not (
            told["std"] > 0 and told["percentile_00_5"] < told["percentile_99_5"]
        ):
            raise refusal(
                folder,
                f"a standard deviation above 0 and percentiles in their order for channel {c}",
                ", ".join(f"{key} {told[key]:g}" for key in INTENSITIES),
                "repair plans.json",
            )
    return [
        Normalization(scheme, bool(masked), properties.get(str(c), {}), window)
        for c, (scheme, masked) in enumerate(zip(schemes, masks, strict=True))
    ]


def build_network(
    plan: Mapping[str, Any],
    content: Mapping[str, Any],
    in_channels: int,
    num_classes: int,
    name: str,
    folder: Path,
) -> nn.Module:
    target = str(plan["architecture"].get("network_class_name"))
    kind = target.rpartition(".")[2]
    if kind not in NETWORKS or target not in (kind, *(f"{module}.{kind}" for module in MODULES)):
        raise refusal(
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
    for key in plan["architecture"].get("_kw_requires_import") or ():
        arguments[key] = _operation(arguments.get(key), folder)
    arguments["deep_supervision"] = False

    def build() -> nn.Module:
        return getattr(module, kind)(input_channels=in_channels, num_classes=num_classes, **arguments)

    try:
        network = build_within(build, folder.resolve().name)
    except CheckpointError:
        raise
    except FAILURES as error:
        found = str(error).split("\n")[0][:200] or type(error).__name__
        raise refusal(folder, f"arguments of {kind}", found, "repair plans.json") from error
    weights: dict[str, Tensor] = dict(content["network_weights"])
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    load_strictly(network, weights, name)
    return with_contiguous_gradients(with_fast_layers(network)).eval()


def _operation(name: Any, folder: Path) -> Any:
    if name is None:
        return None
    kind = str(name).rpartition(".")[2]
    if not str(name).startswith("torch.nn.") or kind not in OPERATIONS:
        raise refusal(
            folder,
            f"operations of torch.nn among {', '.join(OPERATIONS)}",
            f"{name}, nothing was run",
            "bring it with a factory",
        )
    return getattr(nn, kind)
