"""The residual encoder and decoder of nnU-Net that U-Mamba and LMa-UNet are built on, with their stride plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .volume import VolumeNetwork

SLOPE = 0.01
"""Of the leaky ReLU, and of the initialization that goes with it."""

Triples = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Widths, kernels and strides of the stages, finest first. The defaults are the published plan.

    nnU-Net made it for AbdomenCT in arrays with the slices on the first axis: neither kernel nor stride reaches
    across slices in the first stages. The benchmark feeds arrays in RAS order, where the first axis is
    left-right; ``axes=(2, 1, 0)`` of the networks applies the plan to the axes it was made for.

    Args:
        features: channels of every stage.
        kernel_sizes: kernel of every stage.
        strides: stride that leads into every stage.
        blocks: residual blocks per encoder stage.
        decoder_blocks: residual blocks per decoder stage.

    Raises:
        ValueError: if the lists do not have one entry per stage, or a number is not positive.
    """

    features: Sequence[int] = (32, 64, 128, 256, 320, 320)
    kernel_sizes: Triples = ((1, 3, 3), *((3, 3, 3),) * 5)
    strides: Triples = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    blocks: int = 2
    decoder_blocks: int = 2

    def __post_init__(self) -> None:
        stages = len(self.features)
        if stages < 2 or not len(self.kernel_sizes) == len(self.strides) == stages:
            raise ValueError(
                f"expected one kernel and one stride for each of 2 or more stages, got {stages} features, "
                f"{len(self.kernel_sizes)} kernel_sizes and {len(self.strides)} strides; give the same number"
            )
        triples = [*self.kernel_sizes, *self.strides]
        if any(len(triple) != 3 for triple in triples):
            raise ValueError(f"expected kernels and strides of three numbers, got {triples}; one per axis")
        if min(self.blocks, self.decoder_blocks, *self.features, *(n for t in triples for n in t)) < 1:
            raise ValueError(f"expected positive numbers in the plan, got {self}; use at least 1 for each")
        if any(side % 2 == 0 for kernel in self.kernel_sizes for side in kernel):
            raise ValueError(f"expected odd kernel sizes, got {self.kernel_sizes}; use 1 or 3")
        if tuple(self.strides[0]) != (1, 1, 1):
            raise ValueError(
                f"expected a first stride of (1, 1, 1), got {self.strides[0]}; the logits have the resolution "
                "of the first stage"
            )

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis is divided by on the way down."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(3))


PUBLISHED = Plan()


def triple(sides: Sequence[int]) -> tuple[int, int, int]:
    """Three sides of a kernel or stride as the tuple torch wants; a checkpoint's header has lists."""
    x, y, z = sides
    return x, y, z


class ConvNorm(nn.Module):
    """Convolution and affine instance normalization, then leaky ReLU where ``act``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int] = (1, 1, 1),
        *,
        bias: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = triple([side // 2 for side in kernel])
        self.conv = nn.Conv3d(inputs, outputs, triple(kernel), triple(stride), padding, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.act = nn.LeakyReLU(SLOPE, inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions; the shortcut averages over the stride and projects where the width changes."""

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, kernel, stride)
        self.conv2 = ConvNorm(outputs, outputs, kernel, act=False)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(nn.AvgPool3d(triple(stride)))
        if inputs != outputs:
            shortcut.append(ConvNorm(inputs, outputs, (1, 1, 1), bias=False, act=False))
        self.skip = nn.Sequential(*shortcut)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.skip(x))


class Stage(nn.Module):
    """Residual blocks in a row; the first one changes width and resolution."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        first = ResidualBlock(inputs, outputs, kernel, stride)
        rest = (ResidualBlock(outputs, outputs, kernel, (1, 1, 1)) for _ in range(blocks - 1))
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Stem(nn.Module):
    """The convolution before the first stage."""

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(inputs, outputs, kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Encoder(nn.Module):
    """Stem and stages; returns the output of every stage, finest first. ``mix`` is where Mamba comes in."""

    def __init__(self, in_channels: int, plan: Plan) -> None:
        super().__init__()
        widths = (plan.features[0], *plan.features)
        self.stem = Stem(in_channels, widths[0], plan.kernel_sizes[0])
        self.stages = nn.ModuleList(
            Stage(widths[i], widths[i + 1], kernel, stride, plan.blocks)
            for i, (kernel, stride) in enumerate(zip(plan.kernel_sizes, plan.strides, strict=True))
        )

    def mix(self, stage: int, x: Tensor) -> Tensor:
        """What happens to the output of a stage before it becomes skip and next input."""
        del stage
        return x

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips = []
        for index, stage in enumerate(self.stages):
            x = self.mix(index, stage(x))
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """Transposed convolution, skip, residual blocks; from the coarsest level to the finest.

    Every level has a segmentation head for deep supervision, which nothing here uses: all but the last are dead
    weights, kept because published checkpoints have them.
    """

    def __init__(self, num_classes: int, plan: Plan) -> None:
        super().__init__()
        levels = range(len(plan.features) - 1, 0, -1)
        width = plan.features
        self.stages = nn.ModuleList(
            Stage(2 * width[i - 1], width[i - 1], plan.kernel_sizes[i - 1], (1, 1, 1), plan.decoder_blocks)
            for i in levels
        )
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(width[i], width[i - 1], triple(plan.strides[i]), triple(plan.strides[i]))
            for i in levels
        )
        self.seg_layers = nn.ModuleList(nn.Conv3d(width[i - 1], num_classes, 1) for i in levels)

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips[-1]
        for stage, up, skip in zip(self.stages, self.transpconvs, skips[-2::-1], strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        return self.seg_layers[-1](x)


class ResidualUNet(VolumeNetwork):
    """Encoder and decoder with the published initialization; the networks built on it say where Mamba comes in.

    Args:
        in_channels: channels of the image.
        num_classes: number of classes K, background included.
        plan: widths, kernels and strides; the default is the published one.
        axes: which axis of the image the plan sees first, second and third; tokens and windows follow it. The
            default applies the published plan to the axes as they come, as the benchmark does.
        **layers: arguments of the layers that the encoder adds.

    Attributes:
        encoder_class: built from the channels, the plan and the layers' arguments.
        zero_residual: start every residual block as its shortcut, by a second normalization of zeros.

    Shape:
        Input (B,C,X,Y,Z), output (B,K,X,Y,Z); with the published plan X in multiples of 8, Y and Z of 32.

    Raises:
        ValueError: for impossible arguments, and for inputs of the wrong rank, channels or size.
    """

    encoder_class: ClassVar[type[Encoder]] = Encoder
    zero_residual: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        plan: Plan = PUBLISHED,
        axes: Sequence[int] = (0, 1, 2),
        **layers: Any,
    ) -> None:
        # Instance norm at the coarsest stage needs more than one voxel.
        super().__init__(in_channels, plan.divisors, axes, single_voxel=False)
        self.encoder = self.encoder_class(in_channels, plan, **layers)
        self.decoder = Decoder(num_classes, plan)
        self.apply(_initialize)
        if self.zero_residual:
            for block in self.modules():
                if isinstance(block, ResidualBlock):
                    nn.init.zeros_(block.conv2.norm.weight)
                    nn.init.zeros_(block.conv2.norm.bias)

    @classmethod
    def planned(cls, in_channels: int, num_classes: int, **arguments: Any) -> Self:
        """The network with the fields of its plan given one by one, as the header of a checkpoint has them."""
        fields = {name: arguments.pop(name) for name in Plan.__dataclass_fields__ if name in arguments}
        return cls(in_channels, num_classes, Plan(**fields), **arguments)

    def bottleneck(self, x: Tensor) -> Tensor:
        """What happens to the coarsest features before the decoder."""
        return x

    def logits(self, x: Tensor) -> Tensor:
        skips = self.encoder(x)
        skips[-1] = self.bottleneck(skips[-1])
        return self.decoder(skips)


def _initialize(module: nn.Module) -> None:
    """He's initialization of the volume convolutions; Mamba's own layers keep theirs."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict without its second names: one key for every tensor, as in the networks here.

    The published decoder holds the encoder (`decoder.encoder.*`) and every convolution block lists its parts
    twice (`*.all_modules.*`).

    Example:
        >>> import torch
        >>> names = ("stem.convs.0.conv.bias", "stem.convs.0.all_modules.0.bias")
        >>> state = {f"{place}.{name}": torch.ones(2) for place in ("encoder", "decoder.encoder") for name in names}
        >>> list(without_aliases(state))
        ['encoder.stem.convs.0.conv.bias']
    """
    return {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith("decoder.encoder.") and ".all_modules." not in key
    }
