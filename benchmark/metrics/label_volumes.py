"""Label volumes before anything is measured: what is refused, and which voxels are surface. In cache-sized pieces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PIECE = 1 << 17  # voxels at a time


def surface_mask(labels: np.ndarray, first: int = 0, last: int | None = None) -> np.ndarray:
    """Voxels with a face neighbour of another class, or at the border: every class's surface in one pass.

    Only voxels from ``first`` to before ``last`` of the flat array need to be right.

    Neighbours along an axis lie one stride apart in the flat array. Pairs that wrap around join two voxels of the
    border, which is surface anyway, so whole flat arrays can be compared.
    """
    flat, surface = labels.reshape(-1), np.zeros(labels.size, bool)
    differs = np.empty(_PIECE, bool)
    last = flat.size if last is None else last
    strides = np.cumprod([1, *labels.shape[:0:-1]])
    for start in range(first, min(last + int(strides[-1]), flat.size), _PIECE):
        for stride in strides:
            here, end = max(start, stride), min(start + _PIECE, flat.size)
            if here >= end:
                continue
            before = slice(here - stride, end - stride)
            apart = np.not_equal(flat[here:end], flat[before], out=differs[: end - here])
            surface[here:end] |= apart
            surface[before] |= apart
    surface = surface.reshape(labels.shape)
    for axis in range(labels.ndim):
        edge = np.moveaxis(surface, axis, 0)
        edge[0] = edge[-1] = True
    return surface


def check_labels(volume: np.ndarray, name: str, num_classes: int) -> np.ndarray:
    if not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(f"num_classes: expected an integer >= 2, background included, got {num_classes!r}")
    labels = np.asarray(volume)
    if labels.dtype.kind not in "biu":
        raise ValueError(
            f"{name}: expected integer class ids, got dtype {labels.dtype}; "
            "take the argmax over the class axis"
        )
    if labels.ndim == 0 or labels.size == 0:
        raise ValueError(f"{name}: expected a volume (*spatial) with voxels, got shape {labels.shape}")
    # The narrowest type: comparing bytes is several times faster than comparing int64. Piece by piece, so that
    # what was just checked is converted from the cache; a negative number read without its sign is a huge one.
    labels = np.ascontiguousarray(labels)
    flat = labels.reshape(-1)
    narrow = np.empty(labels.shape, np.min_scalar_type(num_classes - 1))
    to, unsigned = narrow.reshape(-1), flat.view(f"{flat.dtype.byteorder}u{flat.itemsize}")
    length = max(_PIECE // flat.itemsize, 1)
    for start in range(0, flat.size, length):
        piece = slice(start, start + length)
        if unsigned[piece].max() >= num_classes:
            raise ValueError(
                f"{name}: expected class ids in 0..{num_classes - 1}, got {int(flat.min())}..{int(flat.max())}; "
                "remap the labels or raise num_classes"
            )
        to[piece] = flat[piece]
    return narrow


def check_spacing(spacing_mm: Sequence[float], rank: int) -> np.ndarray:
    spacing = np.atleast_1d(np.asarray(spacing_mm, dtype=np.float64))
    if spacing.shape != (rank,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(
            f"spacing_mm: expected {rank} positive numbers of mm, one per axis, got {spacing_mm!r}; "
            "use the voxel size from the image header"
        )
    return spacing
