"""Checkpoints of the published repositories: the benchmark of arXiv:2406.08486 (BMVC'24) and VAFA's.

Both save `{epoch, epoch_acc, best_acc, model_state_dict, optimizer_state_dict, scheduler_state_dict}` and no
word about the network, which is recognized by the names of its weights; its configuration is the `paper` size
over windows of 96^3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..activations import require_forward
from ..checkpoint import file_sha256
from ..header import CheckpointError
from ..mamba.residual_unet import without_aliases
from ..registry import build_model
from .brought import BroughtModel
from .weights import load_network, read_state

ROI = (96, 96, 96)
"""Window of both repositories."""

SIGNATURES = {
    "unet": "model.0.conv.unit0.conv.weight",
    "segresnet": "down_layers.0.1.conv1.conv.weight",
    "unetr": "vit.patch_embedding.position_embeddings",
    "swin_unetr": "swinViT.patch_embed.proj.weight",
    "umamba_bot": "mamba.A_log",
    "umamba_enc": "encoder.mamba_layers.0.mamba.A_log",
    "segmamba": "vit.gscs.0.proj.weight",
    "nnmamba": "layer1.1.mamba_layer.nin.weight",
    "lma_unet": "encoder.mamba_layers.0.mamba_forw.A_log",
    "em_unet": "down_layers.0.1.conv1.mamba.A_log",
}
"""A weight that no other architecture has."""

TARGETS = {
    "offset2": "obelisk_hybrid",
    "conv6dU.weight": "obelisk_unet",
    "class_head.class_embeddings.weight": "vista3d",
    "text_to_vision.weight": "suprem_swin_unetr",
    "prompt_encoder.not_a_point_embed.weight": "sam_med3d",
}
"""A weight that only one published target has, see :mod:`robustvox.models.prompted`."""

ENCODERS = ("encoder.mask_token", "patch_embed.", "encoder.patch_embed.")
"""How the names of self-supervised encoders of Swin UNETR begin."""

EMBEDDINGS = {
    "conv": "vit.patch_embedding.patch_embeddings.weight",
    "perceptron": "vit.patch_embedding.patch_embeddings.1.weight",
}
"""`proj_type` of UNETR -> the weight it has."""


def architecture_of(state: Mapping[str, Tensor]) -> str | None:
    """The architecture whose weights these are, by their names; None if it is none of ours.

    Example:
        >>> import torch
        >>> architecture_of({"mamba.A_log": torch.zeros(2, 2)})
        'umamba_bot'
    """
    return next((name for name, key in SIGNATURES.items() if key in state), None)


def load(
    path: Path,
    *,
    in_channels: int,
    num_classes: int,
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> BroughtModel:
    """The network of a published checkpoint with all of its weights.

    Args:
        path: `.pt`, `.pth`, `.ckpt` or bare `.safetensors`.
        in_channels: image channels of the data.
        num_classes: classes of the data.
        architecture: key of ``MODELS``; default the one the names of the weights tell.
        arguments: ``size`` ("paper") and other arguments of the architecture, ``roi_size`` (96 along every axis),
            and for swin_unetr ``legacy_merging`` (true).

    Raises:
        CheckpointError: another architecture, other channels or classes, missing or extra weights, a window the
            architecture cannot take, anything in the file but tensors and numbers.
    """
    state = read_state(path)
    name = _architecture(state, architecture, path)
    given = dict(arguments or {})
    roi_size = given.pop("roi_size", ROI)
    if not isinstance(roi_size, tuple) or not all(isinstance(side, int) and side > 0 for side in roi_size):
        raise CheckpointError(
            f"expected roi_size as whole numbers, got {roi_size}; write roi_size=(96,96,96)"
        )
    state, inferred, notes = _adapt(name, without_aliases(state), given, path)
    arguments = {"size": "paper", **inferred, **given}

    def build(channels: int, classes: int) -> nn.Module:
        try:
            return build_model(
                name, in_channels=channels, num_classes=classes, roi_size=roi_size, **arguments
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    try:
        network = load_network(build, state, in_channels=in_channels, num_classes=num_classes, name=path.name)
    except CheckpointError as error:
        raise CheckpointError(_with_window(str(error), name, state, roi_size)) from error
    require_forward(network, in_channels=in_channels, roi_size=roi_size, what=path.name)
    return BroughtModel(
        name=path.stem, sha256=file_sha256(path), roi_size=roi_size, network=network, notes=tuple(notes)
    )


def _architecture(state: Mapping[str, Tensor], wanted: str | None, path: Path) -> str:
    found = architecture_of(state)
    if found is None:
        _hint(state, path)
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"expected the weights of one of {', '.join(SIGNATURES)} in {path.name}, found {some}, ...; bring "
            "another architecture with a factory, --model package.module:factory"
        )
    if wanted is not None and wanted != found:
        raise CheckpointError(
            f"expected a checkpoint of {wanted}, found {found} in {path.name}; run with --model {found} or give "
            "the right file"
        )
    return found


def _hint(state: Mapping[str, Tensor], path: Path) -> None:
    """Say what is known of files that are no checkpoint of the two repositories."""
    if any(key.startswith(ENCODERS) for key in state):
        raise CheckpointError(
            f"expected a segmentation network in {path.name}, found a self-supervised encoder, which is no target until "
            "it is fine-tuned; robustvox.models.prompted.ssl_encoder.load_ssl_encoder puts it into a Swin UNETR"
        )
    target = next((name for key, name in TARGETS.items() if key in state), None)
    if target is not None:
        raise CheckpointError(
            f"expected the weights of one of {', '.join(SIGNATURES)} in {path.name}, found those of {target}; run with "
            f"--model {target} --checkpoint FILE"
        )


def _adapt(
    name: str, state: dict[str, Tensor], given: dict[str, Any], path: Path
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Weights under our names, arguments that they tell, and notes; takes our own parameters out of ``given``."""
    if name == "unetr":
        found = [kind for kind, key in EMBEDDINGS.items() if key in state]
        if len(found) == 1 and given.get("proj_type", found[0]) != found[0]:
            raise CheckpointError(
                f"expected a patch embedding of type {given['proj_type']}, found {found[0]} in {path.name}; drop "
                "proj_type, the weights tell it"
            )
        return state, {"proj_type": found[0]} if len(found) == 1 else {}, []
    if name == "swin_unetr":
        if not given.pop("legacy_merging", True):
            return (
                state,
                {},
                ["patch merging of MONAI 1.5 and later; weights of an older MONAI need the legacy one"],
            )
        from .legacy import LegacyPatchMerging

        note = "patch merging of MONAI before 1.5, as published; legacy_merging=false for later weights"
        return state, {"downsample": LegacyPatchMerging}, [note]
    if name == "segmamba":
        from ..mamba.segmamba import PUBLISHED_SLICES

        if any(key.endswith(".A_b_log") for key in state):
            note = "the tri-directional network with the published constants for its slices"
            return state, {"variant": "published", "num_slices": PUBLISHED_SLICES}, [note]
        note = "the one-directional network of the BMVC'24 repository; its results are not SegMamba's"
        return state, {"variant": "bmvc"}, [note]
    return state, {}, []


def _with_window(message: str, name: str, state: Mapping[str, Tensor], roi_size: tuple[int, ...]) -> str:
    """The message, and what window the weights were made for where they are tied to one."""
    positions = state.get(SIGNATURES["unetr"])
    if name != "unetr" or positions is None or positions.ndim != 3:
        return message
    patches, expected = positions.shape[1], 1
    for side in roi_size:
        expected *= side // 16
    if patches == expected:
        return message
    side = round(patches ** (1 / len(roi_size)))
    window = f"({','.join([str(16 * side)] * len(roi_size))})" if side ** len(roi_size) == patches else "..."
    return f"{message}; unetr is tied to its window: these weights have {patches} patches, give roi_size={window}"
