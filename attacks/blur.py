"""The Gaussian blur of gradients and noise."""

from __future__ import annotations

import math

from torch import Tensor


def blur(volume: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` voxels along every spatial axis, cut at 3 sigma, zeros beyond the border.

    Sums of shifted copies, not a convolution: every sample gets the same bits in any batch.

    Args:
        volume: (B, C, *spatial).
        sigma: standard deviation in voxels, >= 0; 0 returns the volume.

    Returns:
        Like `volume`.
    """
    reach = math.ceil(3 * sigma)
    if reach == 0:
        return volume
    weights = [math.exp(-0.5 * (shift / sigma) ** 2) for shift in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in range(2, volume.ndim):
        length = volume.shape[axis]
        smoothed = volume * (weights[0] / total)
        for shift in range(1, min(reach, length - 1) + 1):
            weight, rest = weights[shift] / total, length - shift
            smoothed.narrow(axis, 0, rest).add_(volume.narrow(axis, shift, rest), alpha=weight)
            smoothed.narrow(axis, shift, rest).add_(volume.narrow(axis, 0, rest), alpha=weight)
        volume = smoothed
    return volume
