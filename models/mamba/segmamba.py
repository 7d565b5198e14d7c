"""SegMamba: gated convolutions and tri-directional Mamba in the encoder, UNETR's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from .tri import TriMamba
from .volume import MambaLayer, TokenLayer, VolumeNetwork, in_two_sizes, to_tokens, to_volume

PUBLISHED_SLICES = (64, 32, 16, 8)
"""Constants of the published code, the depths of the stages of a 128^3 patch."""


class GatedConvolution(nn.Module):
    """GSC: r(W4 (r(W2 r(W1 x)) + r(W3 x))) + x, with r = ReLU of instance normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.proj3 = nn.Conv3d(channels, channels, 1)
        self.proj4 = nn.Conv3d(channels, channels, 1)
        self.norm = nn.InstanceNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        local = self._normed(self.proj2(self._normed(self.proj(x))))
        return self._normed(self.proj4(local + self._normed(self.proj3(x)))) + x

    def _normed(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(x))


class TriLayer(TokenLayer):
    """x + TriMamba(LayerNorm(x)); a slice is a plane of the first axis unless their number is given."""

    def __init__(self, channels: int, slices: int | None, **mamba: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = TriMamba(channels, **mamba)
        self.slices, self.width = slices, self.mamba.D.numel()

    def mix(self, x: Tensor) -> Tensor:
        mixed = self.mamba(self.norm(to_tokens(x)), slices=self.slices or x.shape[2])
        return x + to_volume(mixed, x.shape[2:])


class _Mlp(nn.Module):
    """Two 1x1x1 convolutions with GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(channels, 2 * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv3d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Encoder(nn.Module):
    """Downsampling, GSC and Mamba layers of every stage; returns each stage through its norm and MLP."""

    def __init__(self, in_channels: int, dims: Sequence[int], stages: list[list[nn.Module]]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv3d(in_channels, dims[0], 7, stride=2, padding=3))
        later = (
            nn.Sequential(nn.InstanceNorm3d(narrow), nn.Conv3d(narrow, wide, 2, stride=2))
            for narrow, wide in pairwise(dims)
        )
        self.downsample_layers = nn.ModuleList([stem, *later])
        self.gscs = nn.ModuleList(GatedConvolution(width) for width in dims)
        self.stages = nn.ModuleList(nn.Sequential(*layers) for layers in stages)
        self.norms = nn.ModuleList(nn.InstanceNorm3d(width) for width in dims)
        self.mlps = nn.ModuleList(_Mlp(width) for width in dims)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for index, stage in enumerate(self.stages):
            x = stage(self.gscs[index](self.downsample_layers[index](x)))
            outputs.append(self.mlps[index](self.norms[index](x)))
        return outputs


class SegMamba(VolumeNetwork):
    """SegMamba, the published tri-directional network, or its one-directional relative.

    Per stage: halve, gated spatial convolution, `depths` Mamba layers; the stage's output goes through instance
    norm and an MLP into UNETR's decoder.

    Source: Z. Xing et al., "SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation",
        arXiv:2401.13560, section 2; official code: ge-xing/SegMamba.

    Differs from the source: pure PyTorch; the slices of the third direction are the planes of the volume's first
    axis. The source has the constants 64, 32, 16, 8, which are the planes of a 128^3 patch; at 96^3 a run of
    them is no plane (`num_slices` gives them back).

    The repository of the benchmark of arXiv:2406.08486 has another network under this name: plain Mamba in one
    direction without a residual (`variant="bmvc"`, 66,850,622 parameters for one channel and 14 classes instead
    of 67,363,262). Its results are not SegMamba's.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes K, background included.
        dims: width of the four stages.
        depths: Mamba layers per stage.
        hidden_size: width of the coarsest level of the decoder.
        variant: "published" or "bmvc".
        num_slices: slices per stage for the third direction; None takes the planes of the first axis.
        axes: which axis of the image the network sees first, second and third; tokens and slices follow it.
        **mamba: `d_state`, `d_conv`, `expand`, `scan` of the Mamba layers.

    Shape:
        Input (B,C,X,Y,Z), output (B,K,X,Y,Z); sides in multiples of 16, not all 16.

    Raises:
        ValueError: for another variant, lists without an entry per stage, slices that do not divide the tokens, and
            images as for :class:`VolumeNetwork`.

    Example:
        >>> import torch
        >>> network = SegMamba(1, 3, dims=(4, 4, 4, 4), depths=(1, 1, 1, 1), hidden_size=4)
        >>> network(torch.zeros(1, 1, 16, 16, 32)).shape
        torch.Size([1, 3, 16, 16, 32])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden_size: int = 768,
        variant: Literal["published", "bmvc"] = "published",
        num_slices: Sequence[int] | None = None,
        axes: Sequence[int] = (0, 1, 2),
        **mamba: Any,
    ) -> None:
        if variant not in ("published", "bmvc"):
            raise ValueError(f'expected variant "published" or "bmvc", got {variant!r}; pick one of them')
        if len(dims) != 4 or len(depths) != 4 or min(*dims, *depths, hidden_size) < 1:
            raise ValueError(
                f"expected four positive dims and depths and a positive hidden_size, got {tuple(dims)}, "
                f"{tuple(depths)} and {hidden_size}; correct them"
            )
        slices: Sequence[int | None] = (None,) * 4 if num_slices is None else num_slices
        if len(slices) != 4:
            raise ValueError(f"expected num_slices for four stages, got {tuple(slices)}; or leave it out")
        # Instance norm at the coarsest stage needs more than one voxel.
        super().__init__(in_channels, (16, 16, 16), axes, single_voxel=False)
        self.slices = tuple(slices)

        def layer(stage: int) -> nn.Module:
            if variant == "bmvc":
                return MambaLayer(dims[stage], **mamba)
            return TriLayer(dims[stage], slices[stage], **mamba)

        stages = [[layer(stage) for _ in range(depths[stage])] for stage in range(4)]
        self.vit = _Encoder(in_channels, dims, stages)
        widths = (*dims, hidden_size)

        def mix(inputs: int, outputs: int) -> UnetrBasicBlock:
            return UnetrBasicBlock(3, inputs, outputs, 3, 1, "instance", res_block=True)

        def up(level: int) -> UnetrUpBlock:
            return UnetrUpBlock(3, widths[level], widths[level - 1], 3, 2, "instance", res_block=True)

        self.encoder1 = mix(in_channels, widths[0])
        self.encoder2, self.encoder3 = mix(widths[0], widths[1]), mix(widths[1], widths[2])
        self.encoder4, self.encoder5 = mix(widths[2], widths[3]), mix(widths[3], widths[4])
        self.decoder5, self.decoder4, self.decoder3, self.decoder2 = up(4), up(3), up(2), up(1)
        self.decoder1 = mix(widths[0], widths[0])
        self.out = UnetOutBlock(3, widths[0], num_classes)

    def check(self, size: Sequence[int], name: str | None = None) -> None:
        super().check(size, name)
        tokens = size[0] * size[1] * size[2]
        for stage, slices in enumerate(self.slices):
            if slices is not None and tokens // 8 ** (stage + 1) % slices:
                raise ValueError(
                    f"{name or 'SegMamba'} expected a roi_size whose {tokens // 8 ** (stage + 1)} tokens at stage "
                    f"{stage} are a multiple of num_slices {slices}, got {tuple(size)}; leave num_slices out"
                )

    def logits(self, x: Tensor) -> Tensor:
        one, two, three, four = self.vit(x)
        y = self.decoder5(self.encoder5(four), self.encoder4(three))
        y = self.decoder4(y, self.encoder3(two))
        y = self.decoder3(y, self.encoder2(one))
        y = self.decoder2(y, self.encoder1(x))
        return self.out(self.decoder1(y))


build = in_two_sizes(
    "segmamba",
    SegMamba,
    # Narrow, with one layer per stage.
    small={"dims": (8, 16, 32, 48), "depths": (1, 1, 1, 1), "hidden_size": 64, "d_state": 8},
)
