"""nnMamba: a residual encoder whose blocks add a Mamba layer read in four orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block import Mamba
from .volume import VolumeNetwork, in_two_sizes, mix_tokens, to_tokens, to_volume


class FlipLayer(nn.Module):
    """r(W2 (a + mean of four readings of a)), a = r(W1 x), r = ReLU of batch normalization.

    The four readings are one Mamba over the tokens as they are, with the channels reversed, with the sequence
    reversed, and with both; each result is reversed back.
    """

    def __init__(self, channels: int, **mamba: Any) -> None:
        super().__init__()
        self.nin = nn.Conv3d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        self.mamba = Mamba(channels, **mamba)
        self.nin2 = nn.Conv3d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        entered = torch.relu(self.norm(self.nin(x)))
        # The readings alone may be recomputed: the batch statistics must be updated once.
        width = 4 * self.mamba.D.numel()
        mean = mix_tokens(self.readings, entered, width, self.mamba.D.dtype)
        return torch.relu(self.norm2(self.nin2(mean + entered)))

    def readings(self, x: Tensor) -> Tensor:
        """Mean of the four readings of (B,C,X,Y,Z), as one batch."""
        tokens = to_tokens(x)
        orders = ((), (2,), (1,), (1, 2))
        read = self.mamba(torch.cat([tokens.flip(axes) for axes in orders])).chunk(4)
        mean = torch.stack([part.flip(axes) for part, axes in zip(read, orders, strict=True)]).mean(0)
        return to_volume(mean, x.shape[2:])


class Block(nn.Module):
    """relu(BN conv relu BN conv x + M(x) + x), or with a strided shortcut and no M."""

    def __init__(self, inputs: int, outputs: int, stride: int, mamba_layer: FlipLayer | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.mamba_layer = mamba_layer
        self.downsample = None
        if mamba_layer is None:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.mamba_layer is not None:
            y = y + self.mamba_layer(x)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _level(inputs: int, outputs: int, blocks: int, mamba: dict[str, Any]) -> nn.Sequential:
    """A strided block, then blocks that all share one Mamba layer."""
    shared = FlipLayer(outputs, **mamba)
    rest = (Block(outputs, outputs, 1, shared) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, 2, None), *rest)


class DoubleConv(nn.Module):
    """Twice convolution, batch normalization, ReLU; the last ReLU can be left out."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, last_relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, padding=1),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True) if last_relu else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Excitation(nn.Module):
    """x scaled per channel by sigmoid(W2 relu(W1 mean x))."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(channels, channels // reduction)
        self.layer2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.layer2(torch.relu(self.layer1(x.mean((2, 3, 4))))))
        return x * scale[..., None, None, None]


class NNMamba(VolumeNetwork):
    """nnMamba for segmentation: three residual levels with one shared Mamba layer each, excited skips.

    Source: H. Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection
        with State Space Model", arXiv:2402.03526; official code: lhaof/nnMamba, `nnMambaSeg`.

    Differs from the source: pure PyTorch; the four readings are one batch. The state dict lists the shared Mamba
    layer of a level once per block, as published.

    The published network ends in batch normalization and ReLU, so its logits are never negative
    (`last_relu=False` leaves the ReLU out). It normalizes over the batch: in training mode the items of a batch
    depend on one another, in eval mode they do not.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes K, background included.
        channels: width of the first level; the others have 2, 4 and 8 times as many.
        blocks: residual blocks per level, the strided one included.
        reduction: ratio of the channels to the inner width of the excitation of the skips.
        last_relu: whether the logits go through the published last ReLU.
        axes: which axis of the image the network sees first, second and third; the tokens follow it.
        **mamba: `d_state`, `d_conv`, `expand`, `scan` of the Mamba layers.

    Shape:
        Input (B,C,X,Y,Z), output (B,K,X,Y,Z); sides in multiples of 16, not all 16.

    Raises:
        ValueError: for no blocks or a reduction beyond the channels, and images as for :class:`VolumeNetwork`.

    Example:
        >>> import torch
        >>> NNMamba(1, 3, channels=4, reduction=2)(torch.zeros(1, 1, 16, 16, 32)).shape
        torch.Size([1, 3, 16, 16, 32])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 32,
        blocks: int = 3,
        reduction: int = 16,
        last_relu: bool = True,
        axes: Sequence[int] = (0, 1, 2),
        **mamba: Any,
    ) -> None:
        if blocks < 1 or reduction < 1 or channels < reduction:
            raise ValueError(
                f"expected at least 1 block and channels of at least the reduction, got blocks={blocks}, "
                f"channels={channels}, reduction={reduction}; lower the reduction or widen the network"
            )
        # Batch norm of a single window needs more than one voxel at the coarsest level.
        super().__init__(in_channels, (16, 16, 16), axes, single_voxel=False)
        widths = [channels * factor for factor in (1, 2, 4, 8)]
        self.in_conv = DoubleConv(in_channels, channels, stride=2)
        self.att1, self.att2, self.att3 = (Excitation(width, reduction) for width in widths[:3])
        self.layer1, self.layer2, self.layer3 = (
            _level(widths[i], widths[i + 1], blocks, mamba) for i in range(3)
        )
        self.conv5 = DoubleConv(widths[3] + widths[2], widths[2])
        self.conv6 = DoubleConv(widths[2] + widths[1], widths[1])
        self.conv7 = DoubleConv(widths[1] + widths[0], widths[0])
        self.conv8 = DoubleConv(widths[0], num_classes, last_relu=last_relu)

    def logits(self, x: Tensor) -> Tensor:
        one = self.in_conv(x)
        two = self.layer1(one)
        three = self.layer2(two)
        y = _double(self.layer3(three))
        y = self.conv5(torch.cat((y, self.att3(three)), dim=1))
        y = self.conv6(torch.cat((_double(y), self.att2(two)), dim=1))
        y = self.conv7(torch.cat((_double(y), self.att1(one)), dim=1))
        return self.conv8(_double(y))


def _double(x: Tensor) -> Tensor:
    """Twice the resolution, trilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


build = in_two_sizes(
    "nnmamba",
    NNMamba,
    # Narrow, with two blocks per level. With the published last ReLU the small network stays at a Dice of 0.48 under
    # the recipe of the zoo.
    small={"channels": 10, "blocks": 2, "reduction": 4, "d_state": 8, "last_relu": False},
)
