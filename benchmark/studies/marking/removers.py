"""What somebody without the key may do to a marked volume in the hope of reading it: filters that need no training.

Every remover maps an image ``(C, *spatial)`` float32 in [0, 1] to one like it. It knows that there is a mark and
how marks are made, but neither key nor original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from scipy import fft, ndimage, signal

Remover = Callable[[np.ndarray, int], np.ndarray]
"""``(image, seed)`` to an image; only noise looks at the seed."""

_BLOCK = 8


def gaussian(image: np.ndarray, _seed: int = 0, *, sigma: float) -> np.ndarray:
    """Gaussian of ``sigma`` voxels along every spatial axis."""
    return _clipped(ndimage.gaussian_filter(image.astype(np.float64), (0, *[sigma] * (image.ndim - 1))))


def median(image: np.ndarray, _seed: int = 0, *, side: int) -> np.ndarray:
    """Median of cubes of ``side`` voxels."""
    return _clipped(ndimage.median_filter(image, (1, *[side] * (image.ndim - 1))))


def requantize(image: np.ndarray, _seed: int = 0, *, bits: int) -> np.ndarray:
    """Rounded to the nearest of ``2**bits`` grey values."""
    steps = 2**bits - 1
    return _clipped(np.rint(image.astype(np.float64) * steps) / steps)


def dct_quantize(image: np.ndarray, _seed: int = 0, *, q: float) -> np.ndarray:
    """JPEG in three dimensions: orthonormal DCT of blocks of 8 voxels, coefficients rounded to coarser steps.

    The step of coefficient (i, j, k) is ``q (1 + (i + j + k) / 3) / 255``, coarser for higher frequencies as JPEG's
    table is. Sides that 8 does not divide are continued by their mirror image and cut again.
    """
    spatial = image.shape[1:]
    pads = [(0, 0), *((0, -side % _BLOCK) for side in spatial)]
    padded = np.pad(image.astype(np.float64), pads, mode="symmetric")
    split = [padded.shape[0], *(part for side in padded.shape[1:] for part in (side // _BLOCK, _BLOCK))]
    blocks = padded.reshape(split)
    within = tuple(range(2, blocks.ndim, 2))
    order = np.indices((_BLOCK,) * len(spatial)).sum(0)
    shape = [1, *(part for _ in spatial for part in (1, _BLOCK))]
    step = (q * (1 + order / 3) / 255).reshape(shape)
    coefficients = np.asarray(fft.dctn(blocks, axes=within, norm="ortho"))
    rounded = np.rint(coefficients / step) * step
    restored = np.asarray(fft.idctn(rounded, axes=within, norm="ortho")).reshape(padded.shape)
    return _clipped(restored[(slice(None), *(slice(side) for side in spatial))])


def resample(image: np.ndarray, _seed: int = 0, *, factor: float) -> np.ndarray:
    """Linear to a grid with ``factor`` times the voxels per axis, and linear back."""
    smaller = [max(round(side * factor), 1) for side in image.shape[1:]]
    return _clipped(_to_grid(_to_grid(image.astype(np.float64), smaller), image.shape[1:]))


def _to_grid(image: np.ndarray, sides) -> np.ndarray:
    """Linear interpolation at the centers of another grid over the same extent."""
    at = [(np.arange(new) + 0.5) * (old / new) - 0.5 for old, new in zip(image.shape[1:], sides, strict=True)]
    points = np.meshgrid(*at, indexing="ij")
    return np.stack([ndimage.map_coordinates(one, points, order=1, mode="nearest") for one in image])


def noise_and_smooth(image: np.ndarray, seed: int = 0, *, std: float, sigma: float) -> np.ndarray:
    """White Gaussian noise, then a Gaussian filter: noise drowns the pattern, the filter takes the noise."""
    noise = np.random.default_rng(seed).normal(0.0, std, image.shape)
    return gaussian(np.clip(image + noise, 0, 1), sigma=sigma)


def wiener(image: np.ndarray, _seed: int = 0, *, side: int, std: float) -> np.ndarray:
    """Adaptive Wiener filter for noise of a known standard deviation; an attacker who knows eps knows that."""
    with np.errstate(divide="ignore", invalid="ignore"):
        filtered = [signal.wiener(one.astype(np.float64), side, noise=std**2) for one in image]
    # Where a neighborhood is constant, its variance is zero and its mean the value itself.
    return _clipped(np.where(np.isfinite(filtered), filtered, image))


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0.0, 1.0).astype(np.float32)


REMOVERS: Mapping[str, Remover] = {
    "gaussian 1": partial(gaussian, sigma=1.0),
    "gaussian 1.5": partial(gaussian, sigma=1.5),
    "median 3": partial(median, side=3),
    "median 5": partial(median, side=5),
    "5 bits": partial(requantize, bits=5),
    "4 bits": partial(requantize, bits=4),
    "dct 10": partial(dct_quantize, q=10.0),
    "dct 20": partial(dct_quantize, q=20.0),
    "resample 0.75": partial(resample, factor=0.75),
    "noise 0.06, gaussian 1": partial(noise_and_smooth, std=0.06, sigma=1.0),
    "wiener 3": partial(wiener, side=3, std=16 / 255),
}
"""By name, with their settings: sigma and sides in voxels, intensities in [0, 1]."""
