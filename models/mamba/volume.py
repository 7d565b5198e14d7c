"""What the published Mamba networks share: voxels as tokens, the order of the axes, the check of the input, two sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..roi import check_roi
from .block import Mamba

# A layer whose widest activation (batch x tokens x width) is larger than this keeps only its input and runs its
# forward again in the backward pass. Such a layer holds a dozen copies of that activation, 64 MiB each here.
RECOMPUTE_ELEMENTS = 1 << 24


def to_tokens(x: Tensor) -> Tensor:
    """Volume (B,C,X,Y,Z) to tokens (B,X*Y*Z,C), row-major: the last axis runs fastest."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Inverse of :func:`to_tokens` for a volume of that size."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def mix_tokens(mix: Callable[[Tensor], Tensor], x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Run a layer over the voxels of x in the precision of its weights, recomputing it if it is large.

    Half precision overflows in the recurrence and the layers around it, so autocast is switched off.

    Args:
        mix: the layer, (B,C,X,Y,Z) to (B,C',X',Y',Z').
        x: volume (B,C,X,Y,Z).
        width: channels of the layer's widest activation.
        dtype: of the layer's weights.
    """
    # The meta device, on which operations are counted, knows no autocast.
    known = torch.amp.is_autocast_available(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if known else nullcontext():
        x = x.to(dtype)
        if torch.is_grad_enabled() and x.numel() // x.shape[1] * width > RECOMPUTE_ELEMENTS:
            return checkpoint(mix, x, use_reentrant=False, preserve_rng_state=False)
        return mix(x)


class TokenLayer(nn.Module, ABC):
    """A layer over the voxels of a volume. Subclasses write ``mix`` and set ``width``; see :func:`mix_tokens`."""

    width: int

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor:
        """(B,C,X,Y,Z) to (B,C',X',Y',Z')."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,X,Y,Z) to (B,C',X',Y',Z')."""
        return mix_tokens(self.mix, x, self.width, next(self.parameters()).dtype)


class MambaLayer(TokenLayer):
    """Mamba(LayerNorm(x)) over all voxels in row-major order; no residual around it."""

    def __init__(self, channels: int, **mamba: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, **mamba)
        self.width = self.mamba.D.numel()

    def mix(self, x: Tensor) -> Tensor:
        return to_volume(self.mamba(self.norm(to_tokens(x))), x.shape[2:])


class VolumeNetwork(nn.Module, ABC):
    """Base of the networks: checks the input, applies the order of the axes, calls ``logits``.

    Args:
        in_channels: channels of the image.
        divisors: what each axis must be a multiple of, in the network's own order of the axes.
        axes: which axis of the image the network sees first, second and third. Token order, slices and an
            anisotropic plan follow it; the logits come back in the order of the image.
        single_voxel: whether the coarsest level may be a single voxel, see :func:`check_roi`.

    Attributes:
        divisors: the same in the order of the axes of the image.

    Raises:
        ValueError: if ``axes`` is no permutation of 0, 1, 2; in the forward, for an image that does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        divisors: Sequence[int],
        axes: Sequence[int] = (0, 1, 2),
        *,
        single_voxel: bool = True,
    ) -> None:
        super().__init__()
        self.axes = tuple(axes)
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"expected axes to be a permutation of (0, 1, 2), got {self.axes}; correct it")
        self.in_channels = in_channels
        self._inverse = tuple(self.axes.index(axis) for axis in range(3))
        self.divisors = tuple(tuple(divisors)[position] for position in self._inverse)
        self._single_voxel = single_voxel

    def check(self, size: Sequence[int], name: str | None = None) -> None:
        """Refuse a window the network cannot take, with the nearest ones it can."""
        check_roi(name or type(self).__name__, size, self.divisors, single_voxel=self._single_voxel)

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Logits of images, both in the network's own order of the axes."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,K,X,Y,Z) of images (B,C,X,Y,Z)."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected images of shape (B,{self.in_channels},X,Y,Z), got {tuple(x.shape)}; "
                "add the missing axes or build the network with in_channels to match"
            )
        self.check(tuple(x.shape[2:]))
        y = self.logits(x.permute(0, 1, *(2 + axis for axis in self.axes)))
        return y.permute(0, 1, *(2 + axis for axis in self._inverse))


Network = TypeVar("Network", bound=VolumeNetwork)


def in_two_sizes(
    name: str, network: Callable[..., Network], *, small: Mapping[str, Any]
) -> Callable[..., Network]:
    """The builder of a network for the registry, which refuses a window before the first forward.

    Args:
        name: key of the registry, for the message.
        network: takes ``in_channels``, ``num_classes`` and its own arguments, whose defaults are the ``paper`` size.
        small: its arguments in ``small`` size.

    Returns:
        A function of ``in_channels``, ``num_classes``, ``roi_size``, ``size`` and overrides of the arguments.
    """
    sizes: dict[str, Mapping[str, Any]] = {"paper": {}, "small": small}

    def build(
        *, in_channels: int, num_classes: int, roi_size: Sequence[int], size: str = "paper", **overrides: Any
    ) -> Network:
        built = network(in_channels, num_classes, **{**sizes[size], **overrides})
        built.check(roi_size, name)
        return built

    return build
