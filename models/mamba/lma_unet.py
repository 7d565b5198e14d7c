"""LMa-UNet: U-Mamba's network with bidirectional Mamba over voxels, then over pooled windows, at every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .block import Mamba
from .residual_unet import Encoder, Plan, ResidualUNet
from .umamba import ISOTROPIC
from .volume import TokenLayer, in_two_sizes, to_tokens, to_volume

PIXEL_WINDOW = (5, 7, 6)
"""Published shape of the pixel-level windows, times the scale of the stage."""


def scales(stages: int) -> tuple[int, ...]:
    """Window scale of every stage, finest first: 4, 4, 2, 2, 1, 1 for six.

    Example:
        >>> scales(6)
        (4, 4, 2, 2, 1, 1)
    """
    return tuple(2 ** ((stages - stage + 1) // 2) // 2 for stage in range(stages))


def gather_lattices(x: Tensor, window: Sequence[int]) -> Tensor:
    """Split (B,C,X,Y,Z) into one volume for every position inside a window: (B*p*q*r, C, X/p, Y/q, Z/r).

    Each result holds every p-th, q-th, r-th voxel, in row-major order of the offset, samples outermost.
    """
    b, c = x.shape[:2]
    p, q, r = window
    size = tuple(side // step for side, step in zip(x.shape[2:], window, strict=True))
    split = x.reshape(b, c, size[0], p, size[1], q, size[2], r)
    return split.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(b * p * q * r, c, *size)


def scatter_lattices(parts: Tensor, window: Sequence[int]) -> Tensor:
    """Inverse of :func:`gather_lattices`."""
    p, q, r = window
    c, *size = parts.shape[1:]
    split = parts.reshape(-1, p, q, r, c, *size).permute(0, 4, 5, 1, 6, 2, 7, 3)
    return split.reshape(-1, c, size[0] * p, size[1] * q, size[2] * r)


class _BiMambaLayer(TokenLayer):
    """W (m_forward(n) + flip m_backward(flip n)), n = LayerNorm(tokens): two Mambas, one projection."""

    def __init__(self, channels: int, **mamba: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba_forw = Mamba(channels, **mamba, project=False)
        self.mamba_backw = Mamba(channels, **mamba, project=False)
        self.width = self.mamba_forw.D.numel()
        self.out_proj = nn.Linear(self.width, channels, bias=False)

    def scan(self, x: Tensor) -> Tensor:
        """Both directions over the voxels of x, each volume of the batch a sequence of its own."""
        tokens = self.norm(to_tokens(x))
        both = self.mamba_forw(tokens) + self.mamba_backw(tokens.flip(1)).flip(1)
        return to_volume(self.out_proj(both), x.shape[2:])


class PixelLayer(_BiMambaLayer):
    """x + both directions over windows if they divide the volume, else over the whole volume.

    A sequence is the voxels of one position inside all the windows (a lattice), as in the source.
    """

    def __init__(self, channels: int, window: Sequence[int], **mamba: Any) -> None:
        super().__init__(channels, **mamba)
        self.window = tuple(window)

    def mix(self, x: Tensor) -> Tensor:
        if any(side % step for side, step in zip(x.shape[2:], self.window, strict=True)):
            return x + self.scan(x)
        return x + scatter_lattices(self.scan(gather_lattices(x, self.window)), self.window)


class WindowLayer(_BiMambaLayer):
    """x + both directions over the means of windows, repeated over each window; over voxels if none divide."""

    def __init__(self, channels: int, window: int, **mamba: Any) -> None:
        super().__init__(channels, **mamba)
        self.window = window

    def mix(self, x: Tensor) -> Tensor:
        if self.window == 1 or any(side % self.window for side in x.shape[2:]):
            return x + self.scan(x)
        means = self.scan(F.avg_pool3d(x, self.window))
        return x + F.interpolate(means, scale_factor=float(self.window), mode="nearest")


class _LargeWindowEncoder(Encoder):
    """The encoder with a pixel-level and a window-level layer after every stage."""

    def __init__(
        self, in_channels: int, plan: Plan, pixel_window: Sequence[int] = PIXEL_WINDOW, **mamba: Any
    ) -> None:
        super().__init__(in_channels, plan)
        if len(pixel_window) != 3 or min(pixel_window) < 1:
            raise ValueError(f"expected a pixel_window of three positive sides, got {tuple(pixel_window)}")
        pairs = list(zip(plan.features, scales(len(plan.features)), strict=True))
        self.mamba_layers = nn.ModuleList(
            PixelLayer(width, tuple(side * scale for side in pixel_window), **mamba) for width, scale in pairs
        )
        self.w_mamba_layers = nn.ModuleList(WindowLayer(width, scale, **mamba) for width, scale in pairs)

    def mix(self, stage: int, x: Tensor) -> Tensor:
        return self.w_mamba_layers[stage](self.mamba_layers[stage](x))


class LMaUNet(ResidualUNet):
    """LMa-UNet: after every encoder stage a pixel-level, then a window-level bidirectional Mamba layer.

        x <- x + W (m_f(n) + flip m_b(flip n)),   n = LayerNorm(tokens of x)

    Pixel level: the tokens are voxels. Window level: they are means over windows of 4, 4, 2, 2, 1, 1 voxels a
    side, from the finest stage to the coarsest.

    Source: J. Wang et al., "LKM-UNet: Large Kernel Vision Mamba UNet for Medical Image Segmentation" (first
        version: "Large Window-based Mamba UNet"), arXiv:2403.07332; official code: wjh892521292/LMa-UNet.
        Configuration and layout of the weights: the benchmark of arXiv:2406.08486.

    Differs from the source: pure PyTorch; no alias keys (see :class:`UMambaBot`). The published pixel windows
    (5, 7, 6), times the same 4, 4, 2, 2, 1, 1, fit the feature maps of another patch: at 96^3 they never divide,
    and the source, like this, reads the whole volume instead.

    Args:
        in_channels, num_classes, plan, axes: as for :class:`ResidualUNet`.
        pixel_window: shape of the pixel-level windows, before the scale of the stage; default (5, 7, 6).
        **mamba: `d_state`, `d_conv`, `expand`, `scan` of the Mamba layers.

    Shape and errors: as :class:`ResidualUNet`.

    Example:
        >>> import torch
        >>> plan = Plan(features=(4, 8), kernel_sizes=[(3, 3, 3)] * 2, strides=[(1, 1, 1), (1, 2, 2)], blocks=1)
        >>> LMaUNet(1, 3, plan)(torch.zeros(1, 1, 3, 4, 4)).shape
        torch.Size([1, 3, 3, 4, 4])
    """

    encoder_class = _LargeWindowEncoder
    zero_residual = True


build = in_two_sizes(
    "lma_unet",
    LMaUNet.planned,
    small={"features": (8, 16, 32, 64), **ISOTROPIC, "d_state": 2, "expand": 1},
)
