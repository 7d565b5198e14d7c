"""The architectures there are, a row each, and building one; no network is imported before it is built.

A row is all that the rest of the suite knows of an architecture besides its code: `list`, the page, the tables, the
citations and the contract tests take it from here. To add one, write its module and add its row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

ZOO = Path(__file__).resolve().parent / "zoo"
"""Folder of the checkpoints that come with the code, ``<dataset>/<model>.safetensors``."""

CONVOLUTIONAL, TRANSFORMER, MAMBA = "convolutional", "transformer", "Mamba"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """What there is to know of an architecture before it is built.

    Attributes:
        module, function: where its builder is, relative to this package.
        summary: one line for people.
        family: what the page groups and filters by.
        source: its paper.
        cite: keys of the bibliography, at least one.
    """

    module: str
    function: str
    summary: str
    family: str
    source: str
    cite: tuple[str, ...]

    def builder(self) -> Callable[..., nn.Module]:
        """The function that builds it, imported when it is called."""

        def build(**arguments: Any) -> nn.Module:
            return getattr(importlib.import_module(self.module, __package__), self.function)(**arguments)

        build.__name__ = self.function
        return build


CATALOG: dict[str, ModelEntry] = {
    "unet": ModelEntry(
        module=".architectures",
        function="unet",
        summary="residual UNet",
        family=CONVOLUTIONAL,
        source="Kerfoot et al., STACOM 2018, doi:10.1007/978-3-030-12029-0_40",
        cite=("kerfoot2018left",),
    ),
    "segresnet": ModelEntry(
        module=".architectures",
        function="segresnet",
        summary="SegResNet, residual encoder with group norm",
        family=CONVOLUTIONAL,
        source="Myronenko, arXiv:1810.11654",
        cite=("myronenko2018segresnet",),
    ),
    "unetr": ModelEntry(
        module=".architectures",
        function="unetr",
        summary="UNETR, vision transformer encoder",
        family=TRANSFORMER,
        source="Hatamizadeh et al., arXiv:2103.10504",
        cite=("hatamizadeh2022unetr",),
    ),
    "swin_unetr": ModelEntry(
        module=".architectures",
        function="swin_unetr",
        summary="Swin-UNETR, shifted-window transformer encoder",
        family=TRANSFORMER,
        source="Hatamizadeh et al., arXiv:2201.01266",
        cite=("hatamizadeh2022swin",),
    ),
    "umamba_bot": ModelEntry(
        module=".mamba.umamba",
        function="umamba_bot",
        summary="U-Mamba, residual UNet with Mamba at the bottleneck",
        family=MAMBA,
        source="Ma et al., arXiv:2401.04722",
        cite=("ma2024umamba",),
    ),
    "umamba_enc": ModelEntry(
        module=".mamba.umamba",
        function="umamba_enc",
        summary="U-Mamba, Mamba after every encoder stage",
        family=MAMBA,
        source="Ma et al., arXiv:2401.04722",
        cite=("ma2024umamba",),
    ),
    "segmamba": ModelEntry(
        module=".mamba.segmamba",
        function="build",
        summary="SegMamba, tri-directional Mamba encoder",
        family=MAMBA,
        source="Xing et al., arXiv:2401.13560",
        cite=("xing2024segmamba",),
    ),
    "nnmamba": ModelEntry(
        module=".mamba.nnmamba",
        function="build",
        summary="nnMamba, residual network with Mamba read in four orders",
        family=MAMBA,
        source="Gong et al., arXiv:2402.03526",
        cite=("gong2024nnmamba",),
    ),
    "lma_unet": ModelEntry(
        module=".mamba.lma_unet",
        function="build",
        summary="LMa-UNet, bidirectional Mamba over voxels and windows",
        family=MAMBA,
        source="Wang et al., arXiv:2403.07332",
        cite=("wang2024lkmunet",),
    ),
    "em_unet": ModelEntry(
        module=".mamba.em_unet",
        function="build",
        summary="EM-UNet (LightM-UNet), SegResNet with a Mamba encoder",
        family=MAMBA,
        source="Liao et al., arXiv:2403.05246",
        cite=("liao2024lightmunet",),
    ),
    "mamba_unet": ModelEntry(
        module=".mamba.unet",
        function="build",
        summary="U-shaped network with pure-PyTorch Mamba layers (ours)",
        family=MAMBA,
        source="robustvox; Mamba layer of Gu and Dao, arXiv:2312.00752",
        cite=("gu2023mamba",),
    ),
}

MODELS: dict[str, Callable[..., nn.Module]] = {name: entry.builder() for name, entry in CATALOG.items()}


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
    from .fast import with_fast_layers

    try:
        network = MODELS[name](
            in_channels=in_channels, num_classes=num_classes, roi_size=tuple(roi_size), size=size, **overrides
        )
    except TypeError as error:
        raise ValueError(
            f"{name} does not take these parameters ({error}); see its builder's signature"
        ) from error
    return with_fast_layers(network)
