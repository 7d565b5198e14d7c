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

from typing import TYPE_CHECKING

from .header import CheckpointError, ModelCard, read_card
from .host_memory import keep_freed_memory
from .lazy import lazy_names
from .registry import CATALOG, MODELS, ZOO, ModelEntry, build_model

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from .filtered import Filtered
    from .normalized import MultiLabel, Normalized
    from .prompted.ssl_encoder import load_ssl_encoder
    from .sliding_window import SlidingWindow

__all__ = [
    "CATALOG",
    "MODELS",
    "ZOO",
    "Checkpoint",
    "CheckpointError",
    "Filtered",
    "ModelCard",
    "ModelEntry",
    "MultiLabel",
    "Normalized",
    "SlidingWindow",
    "build_model",
    "keep_freed_memory",
    "load_checkpoint",
    "load_ssl_encoder",
    "read_card",
    "save_checkpoint",
]

__getattr__ = lazy_names(
    __name__,
    {
        "SlidingWindow": ".sliding_window",
        "Checkpoint": ".checkpoint",
        "load_checkpoint": ".checkpoint",
        "save_checkpoint": ".checkpoint",
        "Filtered": ".filtered",
        "MultiLabel": ".normalized",
        "Normalized": ".normalized",
        "load_ssl_encoder": ".prompted.ssl_encoder",
    },
)
