"""Differentiable structural similarity with a small separable window, any rank."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_SIDE = math.exp(-1 / (2 * 1.5**2))
#: Gaussian window of three voxels, sigma 1.5, normalized: (edge, center, edge)
WINDOW = (_SIDE / (1 + 2 * _SIDE), 1 / (1 + 2 * _SIDE))


class SSIM:
    """Structural similarity to a fixed reference, with the reference's statistics computed once.

    Per channel, window means m, variances v and covariance c over a 3-voxel Gaussian window (sigma 1.5)
    inside the
    volume: (2 m_x m_y + C1)(2 c + C2) / ((m_x^2 + m_y^2 + C1)(v_x + v_y + C2)), C1 = 0.01^2, C2 = 0.03^2
        for
    intensities in [0, 1]. An axis with fewer than three voxels is not filtered.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
        TIP 2004.

    Args:
        reference: (B, C, *spatial) in [0, 1].
    """

    def __init__(self, reference: Tensor) -> None:
        self._reference = reference
        self._mean = _blur(reference)
        self._mean_squared = self._mean.square()
        self._variance = _blur(reference.square()) - self._mean_squared

    def __call__(self, images: Tensor) -> Tensor:
        """Mean similarity per sample over channels and windows, (B,), 1 for identical images."""
        moments = torch.stack([images, images.square(), images * self._reference])
        mean, square, product = _Blur.apply(moments).unbind(0)  # type: ignore[union-attr]
        mean_squared = mean.square()
        both = self._mean * mean
        luminance = (2 * both + 1e-4) / (self._mean_squared + mean_squared + 1e-4)
        contrast = (2 * (product - both) + 9e-4) / (self._variance + square - mean_squared + 9e-4)
        return (luminance * contrast).flatten(1).mean(1)


def _blur(volume: Tensor, leading: int = 2) -> Tensor:
    """Separable window mean over the axes from `leading` on, without padding."""
    edge, center = WINDOW
    for axis in range(leading, volume.ndim):
        inner = volume.shape[axis] - 2
        if inner < 1:
            continue
        outer = volume.narrow(axis, 0, inner) + volume.narrow(axis, 2, inner)
        volume = outer.mul_(edge).add_(volume.narrow(axis, 1, inner), alpha=center)
    return volume


class _Blur(torch.autograd.Function):
    """`_blur` of a stack (S, B, C, *spatial) whose gradient is the transposed blur.

    Written out because autograd would turn each shifted view into a zero-filled volume.
    """

    @staticmethod
    def forward(ctx: Any, moments: Tensor) -> Tensor:
        ctx.sides = moments.shape
        return _blur(moments, 3)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        gradient = grads[0]
        edge, center = WINDOW
        for axis in range(3, gradient.ndim):
            side, inner = ctx.sides[axis], gradient.shape[axis]
            if side == inner:
                continue
            shape = [*gradient.shape[:axis], side, *gradient.shape[axis + 1 :]]
            spread = gradient.new_zeros(shape)
            for shift, weight in ((0, edge), (1, center), (2, edge)):
                spread.narrow(axis, shift, inner).add_(gradient, alpha=weight)
            gradient = spread
        return gradient
