"""MONAI's deterministic transforms, differentiable and undone: what a bundle does to a case before its network.

Each step takes an image ``(C, *spatial)`` on its grid and gives another one; a step that changes the grid leaves behind
how logits come back. Formulas are those of `monai.transforms`, checked against them; torch may differentiate all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..case import CasePredictor, CaseSource, Turn, axes_of, turn, turn_back, turn_between
from ..limits import require_memory
from ..resampling import along, spacing_matrix, spacing_matrix_back

BELOW = -1e4
"""Logit of a class where the network saw nothing: far below any other, yet finite so that no loss turns to NaN."""


@dataclass
class Frame:
    """An image on its grid, and the way back.

    Args:
        image: ``(C, *spatial)``.
        affine: ``(4, 4)`` voxel to world, only its directions and lengths are kept true.
        back: what takes logits ``(K, *spatial)`` to the grid before, the last one first.
        case: id, for messages.
    """

    image: Tensor
    affine: np.ndarray
    case: str = ""
    back: list[Callable[[Tensor], Tensor]] = field(default_factory=list)


class Step(Protocol):
    """One transform."""

    def __call__(self, frame: Frame) -> None:
        """Change the frame in place."""
        ...


def _by_channel(image: Tensor, change: Callable[[Tensor], Tensor], channel_wise: bool) -> Tensor:
    return torch.stack([change(channel) for channel in image]) if channel_wise else change(image)


def percentile(values: Tensor, q: float) -> Tensor:
    """The ``q``-th percentile with linear interpolation, of a tensor of any size, differentiable.

    Example:
        >>> round(float(percentile(torch.arange(5.0), 30)), 3)
        1.2
    """
    flat = values.flatten()
    position = q / 100 * (flat.numel() - 1)
    lower = int(position)
    upper = min(lower + 1, flat.numel() - 1)
    low, high = (torch.kthvalue(flat, index + 1).values for index in (lower, upper))
    return low + (high - low) * (position - lower)


@dataclass(frozen=True, kw_only=True)
class ScaleIntensityRange:
    """Of `monai.transforms.ScaleIntensityRange`."""

    a_min: float
    a_max: float
    b_min: float | None = None
    b_max: float | None = None
    clip: bool = False

    def __call__(self, frame: Frame) -> None:
        frame.image = _range(frame.image, self.a_min, self.a_max, self.b_min, self.b_max, self.clip)


def _range(
    image: Tensor,
    a_min: float | Tensor,
    a_max: float | Tensor,
    b_min: float | None,
    b_max: float | None,
    clip: bool,
) -> Tensor:
    if _number(a_max) == _number(a_min):
        return image - a_min + (b_min or 0.0)
    image = (image - a_min) / (a_max - a_min)
    if b_min is not None and b_max is not None:
        image = image * (b_max - b_min) + b_min
    return image.clamp(b_min, b_max) if clip and (b_min, b_max) != (None, None) else image


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


@dataclass(frozen=True, kw_only=True)
class ScaleIntensityRangePercentiles:
    """Of `monai.transforms.ScaleIntensityRangePercentiles`."""

    lower: float
    upper: float
    b_min: float | None
    b_max: float | None
    clip: bool = False
    relative: bool = False
    channel_wise: bool = False

    def __call__(self, frame: Frame) -> None:
        frame.image = _by_channel(frame.image, self._change, self.channel_wise)

    def _change(self, image: Tensor) -> Tensor:
        b_min, b_max = self.b_min, self.b_max
        if self.relative and b_min is not None and b_max is not None:
            b_min, b_max = (b_min + (b_max - b_min) * q / 100 for q in (self.lower, self.upper))
        a_min, a_max = (percentile(image, q) for q in (self.lower, self.upper))
        return _range(image, a_min, a_max, b_min, b_max, self.clip)


@dataclass(frozen=True, kw_only=True)
class ClipIntensityPercentiles:
    """Of `monai.transforms.ClipIntensityPercentiles` without its soft variant."""

    lower: float | None
    upper: float | None
    channel_wise: bool = False

    def __call__(self, frame: Frame) -> None:
        frame.image = _by_channel(frame.image, self._change, self.channel_wise)

    def _change(self, image: Tensor) -> Tensor:
        low = percentile(image, 0.0 if self.lower is None else self.lower)
        high = percentile(image, 100.0 if self.upper is None else self.upper)
        return torch.minimum(torch.maximum(image, low), high)


@dataclass(frozen=True, kw_only=True)
class ScaleIntensity:
    """Of `monai.transforms.ScaleIntensity`."""

    minv: float | None = 0.0
    maxv: float | None = 1.0
    factor: float | None = None
    channel_wise: bool = False

    def __call__(self, frame: Frame) -> None:
        frame.image = _by_channel(frame.image, self._change, self.channel_wise)

    def _change(self, image: Tensor) -> Tensor:
        if self.minv is None and self.maxv is None:
            return image * (1 + (self.factor or 0.0))
        low, high = image.min(), image.max()
        if _number(low) == _number(high):
            return image if self.minv is None else image * self.minv
        unit = (image - low) / (high - low)
        if self.minv is None or self.maxv is None:
            return unit
        return unit * (self.maxv - self.minv) + self.minv


@dataclass(frozen=True, kw_only=True)
class NormalizeIntensity:
    """Of `monai.transforms.NormalizeIntensity`."""

    subtrahend: float | Sequence[float] | None = None
    divisor: float | Sequence[float] | None = None
    nonzero: bool = False
    channel_wise: bool = False

    def __call__(self, frame: Frame) -> None:
        if not self.channel_wise:
            frame.image = self._change(frame.image, self.subtrahend, self.divisor)
            return
        given = [
            value if isinstance(value, Sequence) else [value] * len(frame.image)
            for value in (self.subtrahend, self.divisor)
        ]
        frame.image = torch.stack(
            [self._change(*channel) for channel in zip(frame.image, *given, strict=True)]
        )

    def _change(self, image: Tensor, subtrahend: object, divisor: object) -> Tensor:
        mask = image != 0 if self.nonzero else torch.ones_like(image, dtype=torch.bool)
        inside = image[mask]
        if not inside.numel():
            return image
        mean = _constant(subtrahend, image) if subtrahend is not None else inside.mean()
        std = _constant(divisor, image) if divisor is not None else inside.std(correction=0)
        std = torch.where(std == 0, torch.ones_like(std), std)
        return torch.where(mask, (image - mean) / std, image)


def _constant(value: object, image: Tensor) -> Tensor:
    constant = torch.as_tensor(value, dtype=image.dtype, device=image.device)
    return constant.view(-1, *[1] * (image.ndim - 1)) if constant.ndim == 1 else constant


@dataclass(frozen=True, kw_only=True)
class ThresholdIntensity:
    """Of `monai.transforms.ThresholdIntensity`."""

    threshold: float
    above: bool = True
    cval: float = 0.0

    def __call__(self, frame: Frame) -> None:
        kept = frame.image > self.threshold if self.above else frame.image < self.threshold
        frame.image = torch.where(kept, frame.image, torch.full_like(frame.image, self.cval))


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """Of `monai.transforms.Orientation`, undone on the logits."""

    axcodes: str

    def __call__(self, frame: Frame) -> None:
        _turn(frame, turn_between(frame.affine, axes_of(self.axcodes)))


def _turn(frame: Frame, how: Turn) -> None:
    """Permute and flip the axes of a frame."""
    frame.image = turn(frame.image, how)
    axes, flips = how
    columns = frame.affine[:3, list(axes)] * np.where(flips, -1, 1)
    frame.affine = np.block([[columns, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
    frame.back.append(lambda logits: turn_back(logits, how))


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Of `monai.transforms.Spacing` with linear interpolation; logits come back by linear interpolation too."""

    pixdim: tuple[float, ...]

    def __call__(self, frame: Frame) -> None:
        wanted = (*self.pixdim, *[self.pixdim[-1]] * 3)[:3]
        found = np.linalg.norm(frame.affine[:3, :3], axis=0)
        sizes = tuple(frame.image.shape[1:])
        for axis, (old, new) in enumerate(zip(found, wanted, strict=True)):
            if not np.isclose(old, new, rtol=0, atol=1e-6):
                voxels = frame.image.numel() / sizes[axis] * ((sizes[axis] - 1) * float(old) / new + 1)
                require_memory(4.0 * voxels, f"resampling to {' x '.join(f'{side:g}' for side in wanted)} mm")
                frame.image = along(frame.image, spacing_matrix(sizes[axis], float(old), new, 1), axis + 1)
        grown = tuple(frame.image.shape[1:])

        def back(logits: Tensor) -> Tensor:
            for axis, (old, new) in enumerate(zip(found, wanted, strict=True)):
                if not np.isclose(old, new, rtol=0, atol=1e-6):
                    matrix = spacing_matrix_back(sizes[axis], grown[axis], float(old), new)
                    logits = along(logits, matrix, axis + 1)
            return logits

        frame.affine = frame.affine.copy()
        frame.affine[:3, :3] *= np.asarray(wanted) / found
        frame.back.append(back)


@dataclass(frozen=True, kw_only=True)
class CropForeground:
    """Of `monai.transforms.CropForeground`: the box of voxels above 0; outside of it the background wins.

    A margin that leaves the image is cut off, or filled with 0 where ``allow_smaller`` is false (MONAI's default since
    1.5).
    """

    margin: int | tuple[int, ...] = 0
    allow_smaller: bool = True

    def __call__(self, frame: Frame) -> None:
        inside = (frame.image.detach() > 0).any(0)
        shape = tuple(frame.image.shape[1:])
        if not bool(inside.any()):
            return
        margins = (self.margin,) * 3 if isinstance(self.margin, int) else self.margin
        box, pads = [], []
        for axis, margin in enumerate(margins):
            others = tuple(a for a in range(3) if a != axis)
            span = torch.nonzero(inside.any(others[1]).any(others[0])).flatten()
            first, last = int(span[0]) - margin, int(span[-1]) + 1 + margin
            box.append(slice(max(first, 0), min(last, shape[axis])))
            pads.append((0, 0) if self.allow_smaller else (max(-first, 0), max(last - shape[axis], 0)))
        frame.image = frame.image[(slice(None), *box)]
        frame.image = nn.functional.pad(frame.image, [pad for pair in reversed(pads) for pad in pair])
        # Without what was filled in.
        kept = [slice(before, before + b.stop - b.start) for (before, _), b in zip(pads, box, strict=True)]
        frame.back.append(lambda logits: _embedded(logits[(slice(None), *kept)], shape, tuple(box)))


def _embedded(logits: Tensor, shape: tuple[int, ...], box: tuple[slice, ...]) -> Tensor:
    full = logits.new_zeros((len(logits), *shape))
    full[1:] = BELOW
    full[(slice(None), *box)] = logits
    return full


@dataclass(frozen=True, kw_only=True)
class SpatialPad:
    """Of `monai.transforms.SpatialPad` with a constant; the logits are cropped back."""

    spatial_size: tuple[int, ...]
    symmetric: bool = True
    value: float = 0.0

    def __call__(self, frame: Frame) -> None:
        shape = tuple(frame.image.shape[1:])
        missing = [max(size - side, 0) for size, side in zip(self.spatial_size, shape, strict=True)]
        before = [m // 2 if self.symmetric else 0 for m in missing]
        pads = [pad for b, m in reversed(list(zip(before, missing, strict=True))) for pad in (b, m - b)]
        frame.image = nn.functional.pad(frame.image, pads, value=self.value)
        box = tuple(slice(b, b + side) for b, side in zip(before, shape, strict=True))
        frame.back.append(lambda logits: logits[(slice(None), *box)])


def _as_read(image: Tensor, source: CaseSource) -> Frame:
    """An image of a case along the axes of its file."""
    frame = Frame(image, np.asarray(source.affine, float), source.id)
    _turn(frame, source.turn_to_stored())
    return frame


ABSOLUTE = (ScaleIntensityRange, ThresholdIntensity, CropForeground)
"""Steps that mean something else in [0, 1] than in the unit of the file."""


class Preprocessed(CasePredictor):
    """A predictor of windows behind the preprocessing its network was trained with; logits on the grid that is scored.

    Bound to a case it starts from the intensities of the file along the axes of the file, which is what MONAI's reader
    gives. Without one it refuses where these matter.

    Args:
        predictor: of whole volumes, ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``.
        steps: in their order.
        name: for messages.

    Shape:
        ``(B, C, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``.

    Example:
        >>> from robustvox.models import SlidingWindow
        >>> windows = SlidingWindow(nn.Conv3d(1, 2, 1), (4, 4, 4))
        >>> model = Preprocessed(windows, [NormalizeIntensity(), SpatialPad(spatial_size=(8, 8, 8))], "mine")
        >>> model(torch.rand(1, 1, 6, 5, 4)).shape
        torch.Size([1, 2, 6, 5, 4])
    """

    def __init__(self, predictor: nn.Module, steps: Sequence[Step], name: str) -> None:
        super().__init__()
        self.predictor, self.steps, self.name = predictor, tuple(steps), name

    def sides(self, source: CaseSource) -> tuple[float, ...]:
        # An image without values is enough: neither of these steps asks for any.
        frame = _as_read(torch.empty((0, *source.image.shape[1:])), source)
        for step in self.steps:
            if isinstance(step, Orientation | Spacing | SpatialPad):
                step(frame)
        return tuple(float(side) for side in frame.image.shape[1:])

    def predict(self, images: Tensor, source: CaseSource | None) -> Tensor:
        needy = [step for step in self.steps if isinstance(step, (*ABSOLUTE, Orientation, Spacing))]
        if source is None and needy:
            raise ValueError(
                f"expected the case of the image for {type(needy[0]).__name__} of {self.name}, got values in [0, 1] alone; "
                "bind the predictor with for_case"
            )
        values = images if source is None else source.intensities(images)
        return torch.stack([self._predict(image, source) for image in values])

    def _predict(self, image: Tensor, source: CaseSource | None) -> Tensor:
        frame = Frame(image, np.eye(4)) if source is None else _as_read(image, source)
        for step in self.steps:
            step(frame)
        logits = self.predictor(frame.image[None].contiguous())[0]
        for undo in reversed(frame.back):
            logits = undo(logits)
        return logits
