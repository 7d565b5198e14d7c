"""Blockwise orthonormal DCT-II of volumes, any rank, as small matrix products.

The coefficients of a block stand where the block stood, so a transformed volume keeps its shape: no
Python loop over blocks, no permutation, no FFT. Tables, masks and spectra per block are volumes too;
`split_blocks` shows them block by block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def _dct_rows(size: int) -> Tensor:
    position = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (position + 0.5) * position[:, None]) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def dct_matrix(size: int, like: Tensor) -> Tensor:
    """Orthonormal DCT-II matrix: `matrix @ signal` are coefficients, `matrix.T @ coefficients` the signal.

    Args:
        size: side of the matrix, >= 1.
        like: tensor whose dtype and device the matrix takes.

    Returns:
        (size, size); row k is frequency k.
    """
    return _dct_matrix(size, like.dtype, like.device)


@lru_cache(maxsize=64)
def _dct_matrix(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept on the device: a copy at every step would make the host wait for it. Computed in float64; a cached
    # tensor made inside inference mode could not enter a graph.
    with torch.inference_mode(False):
        return _dct_rows(size).to(dtype=dtype, device=device, copy=True)


def dct(volume: Tensor, block_size: int, axes: Sequence[int] | None = None) -> Tensor:
    """Blockwise DCT-II.

    Args:
        volume: (B, C, *spatial), float; transformed sides are multiples of `block_size` (see
            `pad_to_blocks`).
        block_size: side of the cubic blocks, >= 1.
        axes: axes to transform; None means all spatial ones, [2, 3] gives slices a 2D transform.

    Returns:
        Coefficients, same shape; entry (a * n + i, b * n + j, ...) is coefficient (i, j, ...) of block (a,
        b, ...).

    Raises:
        ValueError: if a transformed side is no multiple of `block_size`.
    """
    return _transform(volume, dct_matrix(block_size, volume), axes)


def idct(coefficients: Tensor, block_size: int, axes: Sequence[int] | None = None) -> Tensor:
    """Exact inverse of `dct`, with the same arguments."""
    return _transform(coefficients, dct_matrix(block_size, coefficients).T, axes)


def _transform(volume: Tensor, matrix: Tensor, axes: Sequence[int] | None) -> Tensor:
    size, shape = matrix.shape[0], volume.shape
    _check_divisible(volume, size, axes)
    # Half precision under the caller's autocast would turn the transform into noise.
    with torch.autocast(volume.device.type, enabled=False):
        for axis in _spatial(volume, axes):
            after = math.prod(shape[axis + 1 :])
            if after == 1:
                volume = volume.reshape(-1, size) @ matrix.T
            else:
                volume = matrix @ volume.reshape(-1, size, after)
            volume = volume.reshape(shape)
    return volume


def pad_to_blocks(volume: Tensor, block_size: int, axes: Sequence[int] | None = None) -> Tensor:
    """Repeat the last voxel of every axis until its side is a multiple of `block_size`.

    Args:
        volume: (B, C, *spatial).
        block_size: side of the blocks, >= 1.
        axes: axes to pad; None means all spatial ones.

    Returns:
        (B, C, *padded); `crop` undoes it.
    """
    for axis in _spatial(volume, axes):
        side = volume.shape[axis]
        padded = -(-side // block_size) * block_size
        if padded != side:
            index = torch.arange(padded, device=volume.device).clamp_(max=side - 1)
            volume = volume.index_select(axis, index)
    return volume


def crop(volume: Tensor, spatial: Sequence[int]) -> Tensor:
    """The leading `spatial` region of a padded volume (B, C, *padded)."""
    for axis, side in enumerate(spatial, start=2):
        if volume.shape[axis] != side:  # the gradient of a view copies the volume
            volume = volume.narrow(axis, 0, side)
    return volume


def split_blocks(volume: Tensor, block_size: int) -> Tensor:
    """Volume (B, C, *spatial) as blocks (B, C, M, n, ..., n), M in row-major order of the blocks."""
    _check_divisible(volume, block_size, None)
    rank = volume.ndim - 2
    shape = [part for side in volume.shape[2:] for part in (side // block_size, block_size)]
    blocks = volume.reshape(*volume.shape[:2], *shape)
    order = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    return blocks.permute(order).reshape(*volume.shape[:2], -1, *[block_size] * rank)


def merge_blocks(blocks: Tensor, spatial: Sequence[int]) -> Tensor:
    """Exact inverse of `split_blocks`; `spatial` are the sides of the volume."""
    rank, size = len(spatial), blocks.shape[-1]
    grid = [side // size for side in spatial]
    volume = blocks.reshape(*blocks.shape[:2], *grid, *[size] * rank)
    order = [
        0,
        1,
        *(
            axis
            for pair in zip(range(2, 2 + rank), range(2 + rank, 2 + 2 * rank), strict=True)
            for axis in pair
        ),
    ]
    return volume.permute(order).reshape(*blocks.shape[:2], *spatial)


def _spatial(volume: Tensor, axes: Sequence[int] | None) -> Sequence[int]:
    return range(2, volume.ndim) if axes is None else axes


def _check_divisible(volume: Tensor, block_size: int, axes: Sequence[int] | None) -> None:
    if any(volume.shape[axis] % block_size for axis in _spatial(volume, axes)):
        raise ValueError(
            f"volume: expected sides divisible by block_size = {block_size}, got {tuple(volume.shape[2:])}. "
            "Call pad_to_blocks first and crop afterwards"
        )
