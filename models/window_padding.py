"""What surrounds a volume that is smaller than the window."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = ("zeros", "edge", "reflect")


def pad_to(
    images: Tensor, roi_size: Sequence[int], padding: str = "zeros"
) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad volumes smaller than the window, centered, and the index that crops back."""
    missing = missing_voxels(images.shape[2:], roi_size)
    before = [m // 2 for m in missing]
    crop = (
        slice(None),
        slice(None),
        *(slice(b, b + side) for b, side in zip(before, images.shape[2:], strict=True)),
    )
    if not any(missing):
        return images, crop
    if padding != "zeros":
        for axis, (first, extra) in enumerate(zip(before, missing, strict=True), start=2):
            if extra:
                index = _beyond(images.shape[axis], first, extra, padding, images.device)
                images = images.index_select(axis, index)
        return images, crop
    pads = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return F.pad(images, [p for pair in reversed(pads) for p in pair]), crop


def missing_voxels(spatial: Sequence[int], roi_size: Sequence[int]) -> list[int]:
    """Voxels that a volume is smaller than the window, per axis."""
    return [max(roi - side, 0) for roi, side in zip(roi_size, spatial, strict=True)]


@lru_cache(maxsize=64)
def _beyond(side: int, before: int, extra: int, padding: str, device: torch.device) -> Tensor:
    """Which voxel of an axis stands at each place of the padded one; mirroring repeats as often as it must.

    Kept on the device: an attack asks for the same at every step, and each copy to a card waits for it.

    Example:
        >>> [_beyond(3, 2, 4, padding, torch.device("cpu")).tolist() for padding in ("reflect", "edge")]
        [[2, 1, 0, 1, 2, 1, 0], [0, 0, 0, 1, 2, 2, 2]]
    """
    with torch.inference_mode(False):  # what is made in it cannot be saved for a later backward pass
        places = torch.arange(side + extra) - before
        if padding == "edge" or side == 1:
            places = places.clamp(0, side - 1)
        else:
            period = 2 * (side - 1)
            places = places.remainder(period)
            places = torch.where(places < side, places, period - places)
        return places.to(device)
