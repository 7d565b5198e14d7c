"""Whole-volume prediction by overlapping windows that an attack can differentiate through.

MONAI's ``sliding_window_inference`` keeps every window's graph under autograd, so its memory grows with the
volume. Here the volume is stitched without a graph, and the backward pass visits one window batch at a time,
forward and backward, so that only one window's graph ever exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Window = tuple[int, tuple[slice, ...]]
"""Index in the batch and one slice per spatial axis."""


PADDING = ("zeros", "edge", "reflect")


class SlidingWindow(nn.Module):
    """Predictor over volumes of any size: overlapping windows blended by a weight map.

    Stitching is MONAI's (same window grid, centered padding with zeros for small volumes, same weights), see
    ``monai.inferers.sliding_window_inference``.

    Differs from the source: differentiable with respect to the image with memory that does not depend on the
    number of windows, beyond the tensors of the volume itself (logits, their gradient, the image's). Parameters get no gradient through it: it is for evaluation and attacks, networks are
    trained on windows directly.

    Args:
        network: maps ``(B, C, *roi_size)`` to logits ``(B, K, *roi_size)``.
        roi_size: window in voxels, one positive entry per spatial axis.
        overlap: share of a window covered by its neighbor, in [0, 1).
        sw_batch_size: windows per forward; trades memory for speed, never changes the result beyond the
            network's own arithmetic.
        mode: ``"gaussian"`` (sigma one eighth of the window) or ``"constant"`` weights.
        padding: what surrounds volumes smaller than the window: ``"zeros"``, the nearest voxel (``"edge"``), or the
            volume mirrored (``"reflect"``), for networks that never saw such zeros.

    Shape:
        ``(B, C, *spatial)`` float to ``(B, K, *spatial)`` of the same dtype.

    Raises:
        ValueError: for a roi, overlap, batch size or mode outside the ranges above.
        TypeError: if the network does not return one tensor of logits.

    Example:
        >>> import torch
        >>> predictor = SlidingWindow(torch.nn.Conv3d(1, 2, 1), roi_size=(8, 8, 8))
        >>> predictor(torch.rand(1, 1, 13, 9, 5)).shape
        torch.Size([1, 2, 13, 9, 5])
    """

    def __init__(
        self,
        network: nn.Module,
        roi_size: Sequence[int],
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        mode: str = "gaussian",
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if not roi_size or any(int(side) != side or side < 1 for side in roi_size):
            raise ValueError(f"expected a roi_size of positive whole numbers, got {tuple(roi_size)}")
        if not 0 <= overlap < 1:
            raise ValueError(f"expected overlap in [0, 1), got {overlap}")
        if sw_batch_size < 1:
            raise ValueError(f"expected sw_batch_size of at least 1, got {sw_batch_size}")
        if mode not in ("gaussian", "constant"):
            raise ValueError(f'expected mode "gaussian" or "constant", got {mode!r}')
        if padding not in PADDING:
            raise ValueError(f"expected padding among {', '.join(PADDING)}, got {padding!r}")
        self.network = network
        self.roi_size = tuple(int(side) for side in roi_size)
        self.overlap = overlap
        self.sw_batch_size = sw_batch_size
        self.mode = mode
        self.padding = padding
        self._weights: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != len(self.roi_size) + 2:
            raise ValueError(
                f"expected images (B, C, *spatial) with {len(self.roi_size)} spatial axes like roi_size "
                f"{self.roi_size}, got shape {tuple(images.shape)}"
            )
        padded, crop = _pad_to(images, self.roi_size, self.padding)
        if padded.shape[2:] == self.roi_size:
            # One window covers everything: its weight cancels and the plain graph is cheapest.
            return self._network(padded)[crop]
        return _Stitch.apply(padded, self)[crop]  # type: ignore[index]

    def windows(self, batch: int, spatial: Sequence[int]) -> list[Window]:
        """Every window of ``batch`` volumes, the last axis fastest."""
        starts = [self.starts(side, roi) for side, roi in zip(spatial, self.roi_size, strict=True)]
        boxes = [
            tuple(slice(a, a + roi) for a, roi in zip(corner, self.roi_size, strict=True))
            for corner in itertools.product(*starts)
        ]
        return [(b, box) for b in range(batch) for box in boxes]

    def starts(self, side: int, roi: int) -> list[int]:
        """Where the windows start along one axis; a subclass may place them otherwise."""
        return _starts(side, roi, self.overlap)

    def importance(self, like: Tensor) -> Tensor:
        """Positive weight of each voxel of a window, ``(1, 1, *roi)``; a subclass may weigh otherwise."""
        return _importance(self.roi_size, self.mode, like)

    def batches(self, batch: int, spatial: Sequence[int]) -> Iterator[list[Window]]:
        """The windows in groups of ``sw_batch_size``."""
        windows = self.windows(batch, spatial)
        for i in range(0, len(windows), self.sw_batch_size):
            yield windows[i : i + self.sw_batch_size]

    def weights(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Window weight ``(1, 1, *roi)`` and the reciprocal of their sum over the volume ``(1, 1, *spatial)``."""
        key = (like.shape[2:], like.dtype, like.device)
        if key not in self._weights:
            window = self.importance(like)
            total = like.new_zeros((1, 1, *like.shape[2:]))
            for _, box in self.windows(1, like.shape[2:]):
                total[(..., *box)] += window
            # One entry is enough: an attack asks for the same shape at every step.
            self._weights = {key: (window, total.reciprocal_())}
        return self._weights[key]

    def _network(self, windows: Tensor) -> Tensor:
        logits = self.network(windows)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"expected the network to return one tensor of logits, got {type(logits).__name__}; "
                "wrap it to return the full-resolution head only"
            )
        if logits.shape[2:] != windows.shape[2:]:
            raise ValueError(
                f"expected logits of the window's size {tuple(windows.shape[2:])}, got {tuple(logits.shape[2:])}"
            )
        return logits


class _Stitch(torch.autograd.Function):
    """Blend windows without a graph; recompute each with one in the backward pass."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, predictor: SlidingWindow) -> Tensor:
        ctx.predictor = predictor
        ctx.save_for_backward(images)
        window, scale = predictor.weights(images)
        output = None
        for group in predictor.batches(images.shape[0], images.shape[2:]):
            logits = predictor._network(_gather(images, group))
            if output is None:
                output = logits.new_zeros((images.shape[0], logits.shape[1], *images.shape[2:]))
            for (b, box), item in zip(group, logits, strict=True):
                output[(b, slice(None), *box)].addcmul_(item, window[0])
        if output is None:
            raise ValueError(f"expected at least one volume, got a batch of shape {tuple(images.shape)}")
        return output.mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None]:  # type: ignore[override]
        (images,) = ctx.saved_tensors
        predictor: SlidingWindow = ctx.predictor
        window, scale = predictor.weights(images)
        grad = torch.zeros_like(images)
        for group in predictor.batches(images.shape[0], images.shape[2:]):
            upstream = torch.stack(
                [grad_output[(b, slice(None), *box)] * scale[(0, slice(None), *box)] for b, box in group]
            ).mul_(window)
            with torch.enable_grad():
                patches = _gather(images, group).requires_grad_()
                logits = predictor._network(patches)
                # The same gradient as passing `upstream` to autograd.grad, which would hold every activation of
                # the window until the end (measured: 73 against 40 MB for nine convolutions at 32^3).
                weighted = (logits * upstream.to(logits.dtype)).sum()
                del logits
            (patch_grad,) = torch.autograd.grad(weighted, patches)
            for (b, box), item in zip(group, patch_grad, strict=True):
                grad[(b, slice(None), *box)] += item
        return grad, None


def _gather(images: Tensor, group: list[Window]) -> Tensor:
    return torch.stack([images[(b, slice(None), *box)] for b, box in group]).detach()


def _starts(side: int, roi: int, overlap: float) -> list[int]:
    """Window starts along one axis: regular steps, the last one shifted back inside (MONAI's rule)."""
    if side == roi:
        return [0]
    interval = max(int(roi * (1 - overlap)), 1)
    count = -(-(side - roi) // interval) + 1
    return [min(i * interval, side - roi) for i in range(count)]


def _pad_to(
    images: Tensor, roi_size: Sequence[int], padding: str = "zeros"
) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad volumes smaller than the window, centered, and the index that crops back."""
    missing = [max(roi - side, 0) for roi, side in zip(roi_size, images.shape[2:], strict=True)]
    before = [m // 2 for m in missing]
    crop = (
        slice(None),
        slice(None),
        *(slice(b, b + side) for b, side in zip(before, images.shape[2:], strict=True)),
    )
    if not any(missing):
        return images, crop
    if padding != "zeros":
        for axis, (first, extra) in enumerate(zip(before, missing, strict=True), start=2):
            if extra:
                index = _beyond(images.shape[axis], first, extra, padding).to(images.device)
                images = images.index_select(axis, index)
        return images, crop
    pads = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return F.pad(images, [p for pair in reversed(pads) for p in pair]), crop


def _beyond(side: int, before: int, extra: int, padding: str) -> Tensor:
    """Which voxel of an axis stands at each place of the padded one; mirroring repeats as often as it must.

    Example:
        >>> _beyond(3, 2, 4, "reflect").tolist(), _beyond(3, 2, 4, "edge").tolist()
        ([2, 1, 0, 1, 2, 1, 0], [0, 0, 0, 1, 2, 2, 2])
    """
    places = torch.arange(side + extra) - before
    if padding == "edge" or side == 1:
        return places.clamp(0, side - 1)
    period = 2 * (side - 1)
    places = places.remainder(period)
    return torch.where(places < side, places, period - places)


def _importance(roi_size: Sequence[int], mode: str, like: Tensor) -> Tensor:
    """Blending weight of a window; the gaussian has a sigma of an eighth of each side, floored at 1e-3."""
    if mode == "constant":
        return like.new_ones((1, 1, *roi_size))
    weight = like.new_ones((1, 1))
    for axis, side in enumerate(roi_size):
        x = torch.arange(-(side - 1) / 2, (side - 1) / 2 + 1, dtype=like.dtype, device=like.device)
        profile = torch.exp(x**2 / (-2 * (0.125 * side) ** 2))
        weight = weight.unsqueeze(-1) * profile.view([1] * (axis + 2) + [-1])
    # The floor keeps corners from vanishing in the sum, as MONAI does.
    return weight.clamp_min(max(float(weight[weight > 0].min()), 1e-3))
