"""MambaUNet: a small, fast U-shaped network with Mamba layers where the volume is coarse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .block import Mamba


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3x3 convolution and normalization; the bias is left to the normalization."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False), nn.InstanceNorm3d(outputs, affine=True)
    )


class _Residual(nn.Module):
    """Two convolutions and a shortcut; the shortcut is a 1x1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = _conv(outputs, outputs)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv3d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x))) + self.shortcut(x))


class _MambaLayer(nn.Module):
    """x + Mamba(LayerNorm(x)) over the voxels in row-major order, read in both directions by one Mamba."""

    def __init__(self, width: int, d_state: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, d_state=d_state)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        # Both directions in one batch: half the Python steps of two calls.
        ahead, behind = self.mamba(torch.cat((tokens, tokens.flip(1)))).chunk(2)
        mixed = (ahead + behind.flip(1)) / 2
        return x + mixed.transpose(1, 2).reshape(x.shape)


class _Up(nn.Module):
    """Double the resolution, join the skip, mix with one convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, outputs, 2, 2)
        self.mix = nn.Sequential(_conv(2 * outputs, outputs), nn.LeakyReLU(0.01, inplace=True))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.mix(torch.cat((self.up(x), skip), dim=1))


class MambaUNet(nn.Module):
    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1,
        mamba_levels: int = 2,
        d_state: int = 16,
    ) -> None:
        super().__init__()
        widths = tuple(channels)
        self.divisor = 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(_conv(in_channels, widths[0]), nn.LeakyReLU(0.01, inplace=True))
        self.down = nn.ModuleList()
        for level in range(1, len(widths)):
            stages: list[nn.Module] = [_Residual(widths[level - 1], widths[level], stride=2)]
            stages += [_Residual(widths[level], widths[level]) for _ in range(blocks - 1)]
            if level >= len(widths) - mamba_levels:
                stages.append(_MambaLayer(widths[level], d_state))
            self.down.append(nn.Sequential(*stages))
        self.up = nn.ModuleList(_Up(widths[i + 1], widths[i]) for i in reversed(range(len(widths) - 1)))
        self.head = nn.Conv3d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,K,X,Y,Z) of images (B,C,X,Y,Z)."""
        skips = [self.stem(x)]
        for stage in self.down:
            skips.append(stage(skips[-1]))
        x = skips.pop()
        for stage in self.up:
            x = stage(x, skips.pop())
        return self.head(x)
