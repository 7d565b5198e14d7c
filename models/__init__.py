"""Volumetric segmentation architectures, the sliding-window predictor and checkpoints.

``MODELS`` maps a name to a builder; :func:`build_model` checks the arguments and calls it. Nothing heavy is
imported before a network is built, so listing the registry is instant.

Example:
    >>> from robustvox.models import SlidingWindow, build_model
    >>> network = build_model("unet", in_channels=1, num_classes=3, roi_size=(32, 32, 32), size="small")
    >>> predictor = SlidingWindow(network, roi_size=(32, 32, 32))
    >>> sum(p.numel() for p in network.parameters()) > 500_000
    True
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .header import CheckpointError, ModelCard, read_card

if TYPE_CHECKING:
    from torch import nn

    from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from .sliding_window import SlidingWindow

__all__ = [
    "CATALOG",
    "MODELS",
    "SOURCES",
    "ZOO",
    "Checkpoint",
    "CheckpointError",
    "ModelCard",
    "SlidingWindow",
    "build_model",
    "load_checkpoint",
    "read_card",
    "save_checkpoint",
]

ZOO = Path(__file__).resolve().parent / "zoo"
"""Folder of the checkpoints that come with the code, ``<dataset>/<model>.safetensors``."""

CATALOG: dict[str, str] = {
    "unet": "residual UNet",
    "segresnet": "SegResNet, residual encoder with group norm",
    "unetr": "UNETR, vision transformer encoder",
    "swin_unetr": "Swin-UNETR, shifted-window transformer encoder",
    "umamba_bot": "U-Mamba, residual UNet with Mamba at the bottleneck",
    "umamba_enc": "U-Mamba, Mamba after every encoder stage",
    "segmamba": "SegMamba, tri-directional Mamba encoder",
    "nnmamba": "nnMamba, residual network with Mamba read in four orders",
    "lma_unet": "LMa-UNet, bidirectional Mamba over voxels and windows",
    "em_unet": "EM-UNet (LightM-UNet), SegResNet with a Mamba encoder",
    "mamba_unet": "U-shaped network with pure-PyTorch Mamba layers (ours)",
}

SOURCES: dict[str, str] = {
    "unet": "Kerfoot et al., STACOM 2018",
    "segresnet": "Myronenko, arXiv:1810.11654",
    "unetr": "Hatamizadeh et al., arXiv:2103.10504",
    "swin_unetr": "Hatamizadeh et al., arXiv:2201.01266",
    "umamba_bot": "Ma et al., arXiv:2401.04722",
    "umamba_enc": "Ma et al., arXiv:2401.04722",
    "segmamba": "Xing et al., arXiv:2401.13560",
    "nnmamba": "Gong et al., arXiv:2402.03526",
    "lma_unet": "Wang et al., arXiv:2403.07332",
    "em_unet": "Liao et al., arXiv:2403.05246",
    "mamba_unet": "robustvox; Mamba layer of Gu and Dao, arXiv:2312.00752",
}
"""Paper of every architecture."""


def _lazy(module: str, function: str) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        return getattr(importlib.import_module(module, __name__), function)(**arguments)

    build.__name__ = function
    return build


MODELS: dict[str, Callable[..., nn.Module]] = {
    "unet": _lazy(".architectures", "unet"),
    "segresnet": _lazy(".architectures", "segresnet"),
    "unetr": _lazy(".architectures", "unetr"),
    "swin_unetr": _lazy(".architectures", "swin_unetr"),
    "umamba_bot": _lazy(".mamba.umamba", "umamba_bot"),
    "umamba_enc": _lazy(".mamba.umamba", "umamba_enc"),
    "segmamba": _lazy(".mamba.segmamba", "build"),
    "nnmamba": _lazy(".mamba.nnmamba", "build"),
    "lma_unet": _lazy(".mamba.lma_unet", "build"),
    "em_unet": _lazy(".mamba.em_unet", "build"),
    "mamba_unet": _lazy(".mamba.unet", "build"),
}

_LAZY = {
    "SlidingWindow": ".sliding_window",
    "Checkpoint": ".checkpoint",
    "load_checkpoint": ".checkpoint",
    "save_checkpoint": ".checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_model(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    roi_size: Sequence[int],
    size: str = "paper",
    **overrides: Any,
) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a key of ``MODELS``.
        in_channels: image channels ``C``.
        num_classes: logit channels ``K``, background included, at least 2.
        roi_size: window in voxels the network will see, one entry per spatial axis.
        size: ``"paper"`` for the published configuration, ``"small"`` for one that trains on a CPU in minutes.
        **overrides: passed to the architecture, over the size's own arguments.

    Shape:
        The network maps ``(B, C, *roi_size)`` to logits ``(B, K, *roi_size)``.

    Raises:
        ValueError: unknown name, size or parameter, or a window the architecture cannot take.
    """
    if name not in MODELS:
        raise ValueError(f"expected a model among {', '.join(MODELS)}, got {name!r}")
    if size not in ("paper", "small"):
        raise ValueError(f'expected size "paper" or "small", got {size!r}')
    if num_classes < 2:
        raise ValueError(f"expected num_classes of at least 2 (background included), got {num_classes}")
    from .cpu import with_fast_convolutions

    try:
        network = MODELS[name](
            in_channels=in_channels, num_classes=num_classes, roi_size=tuple(roi_size), size=size, **overrides
        )
    except TypeError as error:
        raise ValueError(
            f"{name} does not take these parameters ({error}); see its builder's signature"
        ) from error
    return with_fast_convolutions(network)
