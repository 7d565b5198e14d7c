"""What a perturbation looks like: amplified for the eye, and as a spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DECADES = 3.0
"""Largest range of the spectrum's colors, in powers of ten."""


def amplification(delta: np.ndarray) -> int:
    """The largest factor of two digits that keeps 99.5% of the changed voxels within half the gray scale.

    Args:
        delta: change of intensity on the unit interval, any shape.

    Example:
        >>> amplification(np.array([0.0, 8 / 255, -8 / 255]))
        15
    """
    sizes = np.abs(delta[delta != 0])
    if not sizes.size:
        return 1
    limit = max(0.5 / float(np.percentile(sizes, 99.5)), 1.0)
    unit = 10 ** max(int(np.log10(limit)) - 1, 0)
    return int(limit / unit) * unit


def spectrum(delta: np.ndarray) -> np.ndarray:
    """Magnitude of the orthonormal DCT-II over the whole volume, frequency 0 first on every axis.

    Shape:
        delta: ``(*spatial)``; the result has the same shape, float64.
    """
    from scipy.fft import dctn

    return np.abs(np.asarray(dctn(delta.astype(np.float64), norm="ortho")))


def log_mean(magnitudes: np.ndarray, axis: int) -> np.ndarray:
    """Base-10 logarithm of the mean magnitude along ``axis``; minus infinity where that is 0."""
    with np.errstate(divide="ignore"):
        return np.log10(magnitudes.mean(axis=axis))


def color_range(spectra: Sequence[np.ndarray]) -> tuple[float, float]:
    """Least and largest value that the colors of several log spectra tell apart, at most three decades.

    Example:
        >>> color_range([np.array([-2.0, -1.0]), np.array([-np.inf, -9.0])])
        (-4.0, -1.0)
    """
    values = np.concatenate([s[np.isfinite(s)] for s in spectra])
    if not values.size:
        return -1.0, 0.0
    high = float(values.max())
    return min(max(float(np.percentile(values, 1)), high - DECADES), high - 0.1), high
