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

    def __init__(self, width: int, d_state: int, scan: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, d_state=d_state, scan=scan)

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
    """U-shaped segmentation network: convolutions at fine resolutions, convolutions and Mamba at coarse ones.

    A convolution stem keeps the full resolution; every encoder level then halves it with residual blocks, and
    the coarsest `mamba_levels` of them end in a residual, bidirectional Mamba layer over all their voxels, so
    that every voxel sees the whole volume. The decoder doubles the resolution with transposed convolutions
    and joins the skips. Instance normalization throughout, so nothing depends on the batch or on training
    mode.

    Source: ours. The idea of residual convolutions followed by a Mamba layer is from J. Ma et al., "U-Mamba",
        arXiv:2401.04722; official code: bowang-lab/U-Mamba. The layer is arXiv:2312.00752.

    Differs from the source: Mamba only where the volume is coarse, residual around Mamba, both reading
    directions with shared weights (averaged), no full-resolution residual blocks, one convolution per decoder
    level.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes K, background included.
        channels: width of every level, finest first; one level more halves the resolution once more.
        blocks: residual blocks per encoder level.
        mamba_levels: how many of the coarsest levels get a Mamba layer (0 to len(channels) - 1).
        d_state: state size of the Mamba layers.
        scan: "auto", "torch", "triton", or "mamba_ssm" for the CUDA kernel of that package.

    Attributes:
        divisor: every axis of the input must be a multiple of this, 2 ** (len(channels) - 1).

    Shape:
        Input (B,C,X,Y,Z), output (B,K,X,Y,Z).

    Raises:
        ValueError: for impossible arguments, and for inputs of the wrong rank, channels or size.

    Example:
        >>> import torch
        >>> network = MambaUNet(1, 3, channels=(4, 8, 8))
        >>> network(torch.zeros(1, 1, 8, 12, 8)).shape
        torch.Size([1, 3, 8, 12, 8])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1,
        mamba_levels: int = 2,
        d_state: int = 16,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        widths = tuple(channels)
        if len(widths) < 2 or not 0 <= mamba_levels < len(widths):
            raise ValueError(
                f"expected 2 or more channels and 0 to len(channels) - 1 Mamba levels, got channels={widths} "
                f"and mamba_levels={mamba_levels}; the first level never has a Mamba layer"
            )
        if min(in_channels, num_classes, blocks, d_state, *widths) < 1:
            raise ValueError(
                f"expected positive sizes, got in_channels={in_channels}, num_classes={num_classes}, "
                f"channels={widths}, blocks={blocks}, d_state={d_state}; use at least 1 for each"
            )
        self.in_channels = in_channels
        self.divisor = 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(_conv(in_channels, widths[0]), nn.LeakyReLU(0.01, inplace=True))
        self.down = nn.ModuleList()
        for level in range(1, len(widths)):
            stages: list[nn.Module] = [_Residual(widths[level - 1], widths[level], stride=2)]
            stages += [_Residual(widths[level], widths[level]) for _ in range(blocks - 1)]
            if level >= len(widths) - mamba_levels:
                stages.append(_MambaLayer(widths[level], d_state, scan))
            self.down.append(nn.Sequential(*stages))
        self.up = nn.ModuleList(_Up(widths[i + 1], widths[i]) for i in reversed(range(len(widths) - 1)))
        self.head = nn.Conv3d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,K,X,Y,Z) of images (B,C,X,Y,Z)."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected images of shape (B,{self.in_channels},X,Y,Z), got {tuple(x.shape)}; "
                "add the missing axes or build the network with in_channels to match"
            )
        _check_size(tuple(x.shape[2:]), self.divisor)
        skips = [self.stem(x)]
        for stage in self.down:
            skips.append(stage(skips[-1]))
        x = skips.pop()
        for stage in self.up:
            x = stage(x, skips.pop())
        return self.head(x)


def _check_size(size: tuple[int, ...], divisor: int) -> None:
    """Refuse a size the levels cannot halve evenly, or one whose coarsest level is a single voxel."""
    if any(extent % divisor or extent == 0 for extent in size):
        below = tuple(max(extent // divisor, 1) * divisor for extent in size)
        above = tuple(max(-(-extent // divisor), 1) * divisor for extent in size)
        raise ValueError(
            f"expected every axis to be a multiple of {divisor}, got {size}; the nearest sizes that work are "
            f"{below} and {above}: pad or crop to one of them, or use SlidingWindow"
        )
    if all(extent == divisor for extent in size):
        # Instance normalization of a single voxel is undefined.
        raise ValueError(
            f"expected at least one axis of {2 * divisor} or more, got {size}; the nearest size that works "
            f"is {(*size[:-1], 2 * divisor)}, or use fewer levels"
        )


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "paper": {"channels": (32, 64, 128, 256), "blocks": 2, "mamba_levels": 2, "d_state": 16},
    # Mamba on 2304 and 288 tokens of a 48x64x48 volume.
    "small": {"channels": (12, 24, 48, 96), "blocks": 1, "mamba_levels": 2, "d_state": 8},
}


def build(
    in_channels: int,
    num_classes: int,
    roi_size: Sequence[int],
    size: Literal["paper", "small"] = "paper",
    **overrides: Any,
) -> MambaUNet:
    """Build MambaUNet in one of its two configurations; overrides replace single arguments of MambaUNet.

    Differs from the source: the network is ours, so "paper" is simply the full-size configuration.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes, background included.
        roi_size: size of the windows the network will see; only checked, no parameter depends on it.
        size: "paper", or "small", which trains on a CPU in minutes.
        **overrides: arguments of MambaUNet.

    Raises:
        ValueError: for an unknown size or override, or a roi_size the network refuses.

    Example:
        >>> build(1, 4, (48, 64, 48), size="small").divisor
        8
    """
    if size not in CONFIGURATIONS:
        raise ValueError(
            f"expected size to be one of {sorted(CONFIGURATIONS)}, got {size!r}; pick one of them"
        )
    known = CONFIGURATIONS[size]
    unknown = sorted(set(overrides) - {*known, "scan"})
    if unknown:
        raise ValueError(
            f"expected overrides among {sorted({*known, 'scan'})}, got {unknown}; remove or rename them"
        )
    if len(roi_size) != 3:
        raise ValueError(f"expected a roi_size of three axes, got {tuple(roi_size)}; give X, Y and Z")
    network = MambaUNet(in_channels, num_classes, **{**known, **overrides})
    _check_size(tuple(roi_size), network.divisor)
    return network
