"""Our own checkpoints, given by path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import load_checkpoint
from ..class_order import require_channels, require_order
from ..header import CheckpointError
from .brought import BroughtModel


def load(
    path: Path,
    *,
    in_channels: int,
    num_classes: int,
    architecture: str | None,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
) -> BroughtModel:
    """The network of a `.safetensors` checkpoint that fits the data.

    Raises:
        CheckpointError: as :func:`~robustvox.models.load_checkpoint`, and for other channels or classes, or any of them
            in another order.
    """
    loaded = load_checkpoint(path, architecture)
    card = loaded.card
    if (card.in_channels, card.num_classes) != (in_channels, num_classes):
        raise CheckpointError(
            f"expected weights for {in_channels} image channel(s) and {num_classes} classes, found them for "
            f"{card.in_channels} and {card.num_classes} (trained on {card.dataset}) in {path.name}; give the "
            "dataset it was trained on"
        )
    require_order(card.class_names, class_names, path.name)
    require_channels(card.channel_names, channel_names, path.name)
    return BroughtModel(name=path.stem, sha256=loaded.sha256, roi_size=card.roi_size, network=loaded.network)
