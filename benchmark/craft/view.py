"""How an attack sees a model, and what 8 bits do to a volume: what a protocol decides before anything is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustvox.attacks import Attack
from robustvox.models import SlidingWindow

from ..specs.protocols import Protocol

Craft = Callable[..., Tensor]
"""``(model, images, labels, mask=, generator=, on_step=)`` to adversarial images, as an attack object is called."""


def attack_view(protocol: Protocol, attack: Attack, predictor: nn.Module) -> Craft:
    """The attack through the stitched prediction that is scored, or tile by tile.

    Raises:
        ValueError: tiles are asked for, and the predictor has no window that could be one.
    """
    if not protocol.tiling:
        return attack
    roi_size = getattr(predictor, "roi_size", None)
    if roi_size is None:
        raise ValueError(
            f"expected a SlidingWindow under protocol {protocol.name}, which attacks window by window, got "
            f"{type(predictor).__name__}; wrap the network, or switch it off with {protocol.name}:tiling=false"
        )
    return _Tiled(attack, tuple(roi_size))


def truncate(images: Tensor) -> Tensor:
    """Intensities in [0, 1] cut to multiples of 1/255, never rounded up: half a grey value darker on average.

    Example:
        >>> (truncate(torch.tensor([0.0, 0.9, 1.9, 255.0]) / 255) * 255).round().tolist()
        [0.0, 0.0, 1.0, 255.0]
    """
    return (images * 255).to(torch.uint8).to(images.dtype) / 255


def tiles(spatial: Sequence[int], roi_size: Sequence[int]) -> list[tuple[slice, ...]]:
    """Windows side by side, the last of every axis shifted back inside the volume.

    A side shorter than the window is one short tile; the predictor pads it and crops back.

    Example:
        >>> tiles((7, 3), (4, 4))
        [(slice(0, 4, None), slice(0, 3, None)), (slice(3, 7, None), slice(0, 3, None))]
    """
    sides = [min(roi, side) for roi, side in zip(roi_size, spatial, strict=True)]
    return [box for _, box in SlidingWindow(nn.Identity(), sides, overlap=0.0).windows(1, spatial)]


def attacked_windows(protocol: Protocol, predictor: nn.Module, spatial: Sequence[int]) -> int:
    """How often an attack runs on one volume: once in every tile, or once.

    Example:
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> window = SlidingWindow(nn.Identity(), (4, 4, 4), overlap=0.0)
        >>> [attacked_windows(PROTOCOLS[name], window, (7, 3, 8)) for name in ("robustvox-1", "bmvc2024")]
        [1, 4]
    """
    roi_size = getattr(predictor, "roi_size", None) if protocol.tiling else None
    return len(tiles(spatial, roi_size)) if roi_size else 1


class _Tiled:
    """One attack per tile, each from the clean volume; later tiles overwrite where two overlap."""

    def __init__(self, attack: Attack, roi_size: tuple[int, ...]) -> None:
        self._attack = attack
        self._roi_size = roi_size

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        **options: object,
    ) -> Tensor:
        adversarial = images.clone()
        for box in tiles(images.shape[2:], self._roi_size):
            tile = (slice(None), slice(None), *box)
            counted = None if mask is None else mask[tile]
            adversarial[tile] = self._attack(model, images[tile], labels[tile], counted, **options)  # type: ignore[arg-type]
        return adversarial
