"""A predictor behind a radial frequency filter: a network made for one scanner, fed by another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RadialFilter(nn.Module):
    """A real gain per length of the frequency vector, applied to whole volumes.

    The gain is linear between the given frequencies, constant beyond them, and 1 at frequency 0, so that the mean
    of every channel stays. Linear, shift-equivariant (the DFT is periodic), and its own adjoint, because the gain
    is real and even: the gradient that comes back is the filter applied to the gradient that went in.

    Args:
        frequency: increasing, cycles per mm, ``(N,)``.
        gain: finite, one per frequency.
        spacing_mm: voxel size, one entry per spatial axis.

    Shape:
        ``(B, C, *spatial)`` float to the same, any spatial size.

    Raises:
        ValueError: frequencies that do not increase, gains that do not fit or are not finite, a spacing that is
            not positive; when called, a volume of another rank.

    Example:
        >>> import torch
        >>> keep = RadialFilter((0.0, 0.5), (1.0, 1.0), spacing_mm=(1.0, 1.0, 1.0))
        >>> volume = torch.rand(1, 1, 5, 6, 7)
        >>> bool(torch.allclose(keep(volume), volume, atol=1e-6))
        True
    """

    frequency: Tensor
    gain: Tensor

    def __init__(
        self, frequency: Sequence[float], gain: Sequence[float], spacing_mm: Sequence[float]
    ) -> None:
        super().__init__()
        if len(frequency) != len(gain) or len(frequency) < 2:
            raise ValueError(
                f"expected one gain for each of at least two frequencies, got {len(gain)} and {len(frequency)}"
            )
        if any(b <= a for a, b in itertools.pairwise(frequency)) or not all(
            math.isfinite(value) for value in (*frequency, *gain)
        ):
            raise ValueError("expected increasing frequencies and finite gains; sort and repair them")
        if not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
            raise ValueError(f"expected a spacing > 0 mm per axis, got {tuple(spacing_mm)}")
        self.spacing_mm = tuple(float(mm) for mm in spacing_mm)
        self.register_buffer("frequency", torch.tensor(frequency, dtype=torch.float64))
        self.register_buffer("gain", torch.tensor(gain, dtype=torch.float64))

    def transfer(self, spatial: Sequence[int]) -> Tensor:
        """Gain of every coefficient that ``torch.fft.rfftn`` returns for that size, float64."""
        device = self.gain.device
        sides = list(zip(spatial, self.spacing_mm, strict=True))
        last = len(sides) - 1
        square = torch.zeros((), dtype=torch.float64, device=device)
        for axis, (side, mm) in enumerate(sides):
            grid = torch.fft.rfftfreq if axis == last else torch.fft.fftfreq
            f = grid(side, mm, dtype=torch.float64, device=device)
            square = square + f.square().view([-1 if a == axis else 1 for a in range(len(sides))])
        radius = square.sqrt()
        right = torch.searchsorted(self.frequency, radius).clamp(1, len(self.frequency) - 1)
        low, high = self.frequency[right - 1], self.frequency[right]
        share = ((radius - low) / (high - low)).clamp(0, 1)
        gain = torch.lerp(self.gain[right - 1], self.gain[right], share)
        return torch.where(radius == 0, 1.0, gain)

    def forward(self, images: Tensor) -> Tensor:
        axes = list(range(2, images.ndim))
        if len(axes) != len(self.spacing_mm):
            raise ValueError(
                f"expected images (B, C, *spatial) with {len(self.spacing_mm)} spatial axes, got shape "
                f"{tuple(images.shape)}"
            )
        spatial = images.shape[2:]
        # Half precision has no FFT on the CPU, and no digits to lose.
        real = images if images.dtype == torch.float64 else images.float()
        gain = self.transfer(spatial).to(real.dtype)
        filtered = torch.fft.irfftn(torch.fft.rfftn(real, dim=axes) * gain, s=spatial, dim=axes)
        return filtered.to(images.dtype)


class Filtered(nn.Module):
    """A predictor that sees every volume through a filter, clipped to [0, 1] as its scanner would.

    Whole volumes only: the filter is not local, so it stands before the windows, not in them.

    Args:
        predictor: ``(B, C, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``.
        before: a :class:`RadialFilter`, or any module that keeps the shape.

    Example:
        >>> import torch
        >>> sharpen = RadialFilter((0.0, 0.5), (1.0, 3.0), spacing_mm=(1.0, 1.0, 1.0))
        >>> model = Filtered(torch.nn.Conv3d(1, 2, 1), sharpen)
        >>> model(torch.rand(1, 1, 6, 5, 4)).shape
        torch.Size([1, 2, 6, 5, 4])
    """

    def __init__(self, predictor: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor
        self.before = before

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor(self.before(images).clamp(0, 1))
