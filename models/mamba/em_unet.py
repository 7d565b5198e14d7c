"""EM-UNet (LightM-UNet): SegResNet with Mamba layers in place of the encoder's convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from .block import Mamba
from .volume import TokenLayer, VolumeNetwork, in_two_sizes, to_tokens, to_volume

GROUPS = 8
"""Of the group normalization."""


class ScaledLayer(TokenLayer):
    """W LayerNorm(Mamba(LayerNorm(x)) + s x) + b, one LayerNorm twice, s a learned number."""

    def __init__(self, inputs: int, outputs: int, **mamba: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.mamba = Mamba(inputs, **mamba)
        self.proj = nn.Linear(inputs, outputs)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.width = self.mamba.D.numel()

    def mix(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        mixed = self.mamba(self.norm(tokens)) + self.skip_scale * tokens
        return to_volume(self.proj(self.norm(mixed)), x.shape[2:])


class ResidualMamba(nn.Module):
    """x + twice (group normalization, ReLU, Mamba layer)."""

    def __init__(self, channels: int, **mamba: Any) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = ScaledLayer(channels, channels, **mamba)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = ScaledLayer(channels, channels, **mamba)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(y)))


class _MambaSegResNet(SegResNet):
    """MONAI's SegResNet with the encoder exchanged; its decoder is EM-UNet's."""

    def __init__(self, mamba: dict[str, Any], **arguments: Any) -> None:
        self._mamba = mamba
        super().__init__(spatial_dims=3, **arguments)

    def _make_down_layers(self) -> nn.ModuleList:
        levels = []
        for level, blocks in enumerate(self.blocks_down):
            width = self.init_filters * 2**level
            entry: nn.Module = nn.Identity()
            if level > 0:
                # Widening comes before pooling, so this layer scans at the finer resolution.
                entry = nn.Sequential(ScaledLayer(width // 2, width, **self._mamba), nn.MaxPool3d(2))
            levels.append(nn.Sequential(entry, *(ResidualMamba(width, **self._mamba) for _ in range(blocks))))
        return nn.ModuleList(levels)


class EMUNet(VolumeNetwork):
    """EM-UNet, also known as LightM-UNet: a SegResNet whose encoder is made of Mamba layers.

    Every level is residual blocks of two Mamba layers after group norm and ReLU; a Mamba layer that doubles the
    width and a max pooling lead to the next. At 96^3 three layers scan 884,736 tokens.

    Source: W. Liao et al., "LightM-UNet: Mamba Assists in Lightweight UNet for Medical Image Segmentation",
        arXiv:2403.05246; official code: MrBlankness/LightM-UNet. Configuration and layout of the weights: the
        benchmark of arXiv:2406.08486, whose factory for it fails when called.

    Differs from the source: pure PyTorch.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes K, background included.
        init_filters: width of the finest level, a multiple of 8; every level doubles it.
        blocks_down: residual blocks per encoder level.
        blocks_up: residual blocks per decoder level, one level less.
        axes: which axis of the image the network sees first, second and third; the tokens follow it.
        **mamba: `d_state`, `d_conv`, `expand`, `scan` of the Mamba layers.

    Shape:
        Input (B,C,X,Y,Z), output (B,K,X,Y,Z); sides in multiples of 8.

    Raises:
        ValueError: for filters that the groups do not divide, levels without blocks, and images as for
            :class:`VolumeNetwork`.

    Example:
        >>> import torch
        >>> network = EMUNet(1, 3, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
        >>> network(torch.zeros(1, 1, 2, 4, 6)).shape
        torch.Size([1, 3, 2, 4, 6])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        axes: Sequence[int] = (0, 1, 2),
        **mamba: Any,
    ) -> None:
        if init_filters < GROUPS or init_filters % GROUPS:
            raise ValueError(
                f"expected init_filters to be a multiple of {GROUPS} (groups of the normalization), "
                f"got {init_filters}; use {max(init_filters // GROUPS, 1) * GROUPS}"
            )
        if len(blocks_down) != len(blocks_up) + 1 or min(*blocks_down, *blocks_up) < 1:
            raise ValueError(
                f"expected positive blocks_down and one blocks_up less, got {tuple(blocks_down)} and "
                f"{tuple(blocks_up)}; correct them"
            )
        super().__init__(in_channels, (2 ** len(blocks_up),) * 3, axes)
        network = _MambaSegResNet(
            mamba,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=num_classes,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )
        # The published weights have the parts of SegResNet at the top level.
        self.convInit, self.conv_final = network.convInit, network.conv_final
        self.down_layers, self.up_samples = network.down_layers, network.up_samples
        self.up_layers = network.up_layers

    def logits(self, x: Tensor) -> Tensor:
        x = self.convInit(x)
        skips = []
        for level in self.down_layers:
            x = level(x)
            skips.append(x)
        for up, mix, skip in zip(self.up_samples, self.up_layers, skips[-2::-1], strict=True):
            x = mix(up(x) + skip)
        return self.conv_final(x)


build = in_two_sizes(
    "em_unet",
    EMUNet,
    # Three full-resolution scans decide the time: eight channels, not expanded, two states.
    small={
        "init_filters": 8,
        "blocks_down": (1, 1, 1, 1),
        "blocks_up": (1, 1, 1),
        "d_state": 2,
        "expand": 1,
    },
)
