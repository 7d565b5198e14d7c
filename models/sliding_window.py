"""Whole-volume prediction by overlapping windows that an attack can differentiate through.

MONAI's ``sliding_window_inference`` keeps every window's graph under autograd, so its memory grows with the
volume. Here the volume is stitched without a graph. The windows' own graphs are kept where they fit; where they do
not, the backward pass visits one window batch at a time, forward and backward, so that only one ever exists.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .cuda_graphs import CudaGraphs
from .window_memory import MEMORY, Execution, WindowMemory, attempt, autocast_dtype, give_back, release
from .window_padding import PADDING, missing_voxels, pad_to

Window = tuple[int, tuple[slice, ...]]
"""Index in the batch and one slice per spatial axis."""


class SlidingWindow(nn.Module):
    """Predictor over volumes of any size: overlapping windows blended by a weight map.

    Stitching is MONAI's (same window grid, centered padding with zeros for small volumes, same weights), see
    ``monai.inferers.sliding_window_inference``.

    Differs from the source: differentiable with respect to the image with memory that need not depend on the
    number of windows, beyond the tensors of the volume itself (logits, their gradient, the image's). Parameters
    get no gradient through it: it is for evaluation and attacks, networks are trained on windows directly.
    A batch that runs out of memory is halved and tried again.

    Args:
        network: maps ``(B, C, *roi_size)`` to logits ``(B, K, *roi_size)``.
        roi_size: window in voxels, one positive entry per spatial axis.
        overlap: share of a window covered by its neighbor, in [0, 1).
        sw_batch_size: windows per forward; trades memory for speed, never changes the result beyond the
            network's own arithmetic. ``"auto"`` is 4 on a CPU and on an accelerator what its memory holds, at
            most 32, found once per window and device.
        mode: ``"gaussian"`` (sigma one eighth of the window) or ``"constant"`` weights.
        padding: what surrounds volumes smaller than the window: ``"zeros"``, the nearest voxel (``"edge"``), or the
            volume mirrored (``"reflect"``), for networks that never saw such zeros.
        memory: ``"keep"`` holds every window's graph for the backward pass, ``"recompute"`` runs every window
            again there and needs the memory of one batch, ``"auto"`` keeps what fits: 80% of what a GPU has
            free, a quarter of what the host has.
        cuda_graphs: ``"auto"`` replays the network as a CUDA graph where that is measured to be faster and no other
            windows' graphs are kept at the time, which a replay would overwrite; ``"off"`` never.

    Shape:
        ``(B, C, *spatial)`` float to ``(B, K, *spatial)`` of the same dtype.

    Raises:
        ValueError: for a roi, overlap, batch size, mode, memory or choice of graphs outside the ranges above.
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
        sw_batch_size: int | str = "auto",
        mode: str = "gaussian",
        padding: str = "zeros",
        memory: str = "auto",
        cuda_graphs: str = "auto",
    ) -> None:
        super().__init__()
        if not roi_size or any(int(side) != side or side < 1 for side in roi_size):
            raise ValueError(f"expected a roi_size of positive whole numbers, got {tuple(roi_size)}")
        if not 0 <= overlap < 1:
            raise ValueError(f"expected overlap in [0, 1), got {overlap}")
        if sw_batch_size != "auto" and (isinstance(sw_batch_size, str) or sw_batch_size < 1):
            raise ValueError(f'expected sw_batch_size of at least 1 or "auto", got {sw_batch_size!r}')
        if mode not in ("gaussian", "constant"):
            raise ValueError(f'expected mode "gaussian" or "constant", got {mode!r}')
        if padding not in PADDING:
            raise ValueError(f"expected padding among {', '.join(PADDING)}, got {padding!r}")
        if memory not in MEMORY:
            raise ValueError(f"expected memory to be one of {', '.join(MEMORY)}, got {memory!r}")
        self.network = network
        self.roi_size = tuple(int(side) for side in roi_size)
        self.overlap = overlap
        self.sw_batch_size = sw_batch_size
        self.mode = mode
        self.padding = padding
        self.memory = memory
        #: how the last volume went through the network; None before the first
        self.execution: Execution | None = None
        self._fit = WindowMemory(network, sw_batch_size, memory)
        #: what replays the network, where that is faster
        self.graphs = CudaGraphs(network, cuda_graphs)
        self._weights: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def configure(
        self, *, memory: str | None = None, network: nn.Module | None = None, cuda_graphs: str | None = None
    ) -> None:
        """Change how windows are computed, or put another network in the place of the one that is there."""
        self.memory = self.memory if memory is None else memory
        if self.memory not in MEMORY:
            raise ValueError(f"expected memory to be one of {', '.join(MEMORY)}, got {memory!r}")
        self.network = self.network if network is None else network
        self._fit = WindowMemory(self.network, self.sw_batch_size, self.memory)
        self.graphs = CudaGraphs(self.network, cuda_graphs or self.graphs.choice)

    def batch_size(self, window: Tensor) -> int:
        """How many windows like ``window`` ``(1, C, *roi_size)`` go through the network at once."""
        return self._fit.batch_size(window)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != len(self.roi_size) + 2:
            raise ValueError(
                f"expected images (B, C, *spatial) with {len(self.roi_size)} spatial axes like roi_size "
                f"{self.roi_size}, got shape {tuple(images.shape)}"
            )
        padded, crop = pad_to(images, self.roi_size, self.padding)
        if padded.shape[2:] == self.roi_size:
            # One window covers everything: its weight cancels and the plain graph is cheapest.
            logits = self._whole(padded)
            how = "keep" if padded.requires_grad else "none"
            self.execution = Execution(images.shape[0], how, self.graphs.replayed)
            return logits[crop]
        return _Stitch.apply(padded, self)[crop]  # type: ignore[index]

    def place(self, spatial: Sequence[int]) -> tuple[slice, ...]:
        """Where a volume of this size lies in what the network sees: the middle, where the window is larger."""
        missing = missing_voxels(spatial, self.roi_size)
        return tuple(slice(m // 2, m // 2 + side) for m, side in zip(missing, spatial, strict=True))

    def count(self, spatial: Sequence[int]) -> int:
        """How many windows cover a volume of this size."""
        return math.prod(
            len(self.starts(max(side, roi), roi)) for side, roi in zip(spatial, self.roi_size, strict=True)
        )

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

    def _whole(self, windows: Tensor) -> Tensor:
        """Logits of volumes of one window each; whoever holds memory gives it back before one is lost."""
        while True:
            wanted = windows.requires_grad and torch.is_grad_enabled()
            logits = attempt(partial(self._network, windows, prepare=wanted))
            if isinstance(logits, Tensor):
                return logits
            # Several volumes are tried in a smaller batch by whoever put them together.
            if not (self.graphs.drop() or (len(windows) == 1 and give_back(windows.device))):
                raise logits
            release(windows.device)

    def _network(self, windows: Tensor, *, replay: bool = True, prepare: bool = False) -> Tensor:
        if prepare and not _in_backward():
            self.graphs.prepare(windows)
        logits = self.graphs(windows, replay=replay)
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


@dataclass
class _Group:
    """Windows that go through the network together, and their graph where it was kept."""

    windows: list[Window]
    patches: Tensor | None = None
    logits: Tensor | None = None


class _Stitch(torch.autograd.Function):
    """Blend windows outside the volume's graph; each window's own graph is kept, or made again on the way back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, predictor: SlidingWindow) -> Tensor:
        windows = predictor.windows(images.shape[0], images.shape[2:])
        if not windows:
            raise ValueError(f"expected at least one volume, got a batch of shape {tuple(images.shape)}")
        first = _gather(images, windows[:1])
        wanted: bool = ctx.needs_input_grad[0]
        volumes = images.numel() / first.numel()
        kept = predictor._fit.kept_batch(first, len(windows), volumes) if wanted else 0
        output, ctx.kept = _blend(predictor, images, windows, wanted, kept)
        how = "none" if not wanted else "recompute" if ctx.kept is None else "keep"
        size = predictor._fit.spread(first, len(windows)) if ctx.kept is None else kept
        predictor.execution = Execution(size, how, predictor.graphs.replayed)
        # The backward pass may run in another thread, which knows nothing of this one's autocast.
        ctx.predictor, ctx.dtype = predictor, autocast_dtype(images.device)
        ctx.save_for_backward(images)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None]:  # type: ignore[override]
        (images,) = ctx.saved_tensors
        predictor: SlidingWindow = ctx.predictor
        windows = predictor.windows(images.shape[0], images.shape[2:])
        size = predictor._fit.spread(_gather(images, windows[:1]), len(windows))
        groups = deque(ctx.kept or _split(windows, size))
        # From here on the queue alone holds the graphs, so that each is freed when it was used. A second backward
        # pass through the same graph recomputes.
        ctx.kept = None
        with _autocast(images.device, ctx.dtype):
            return _spread(predictor, images, grad_output, groups), None


def _blend(
    predictor: SlidingWindow, images: Tensor, windows: list[Window], wanted: bool, keep: int
) -> tuple[Tensor, list[_Group] | None]:
    """The blended logits, and, if a gradient is wanted, the graphs of ``keep`` windows each where they are to be kept."""
    window, scale = predictor.weights(images)
    kept: list[_Group] | None = [] if keep else None
    output, at = None, 0
    first = _gather(images, windows[:1])
    size = keep or predictor._fit.spread(first, len(windows))
    while at < len(windows):
        group = _Group(windows[at : at + size])
        # A replay overwrites the graph of the windows before it: then it serves only where none of them is kept.
        replay = kept is None or len(group.windows) == len(windows)
        prepare = wanted and replay and at == 0
        logits = attempt(partial(_logits, predictor, images, group, kept is not None, replay, prepare))
        if isinstance(logits, RuntimeError):
            group.patches = None
            if predictor.graphs.drop():
                release(images.device)
            elif kept is None:
                size = predictor._fit.shrink(first, len(group.windows), logits)
            else:
                kept = None
                predictor._fit.stop_keeping(images.device)
                size = predictor._fit.spread(first, len(windows))
            continue
        if kept is not None:
            kept.append(_Group(group.windows, group.patches, logits))
        if output is None:
            output = logits.new_zeros((images.shape[0], logits.shape[1], *images.shape[2:]))
        for (b, box), item in zip(group.windows, logits.detach(), strict=True):
            output[(b, slice(None), *box)].addcmul_(item, window[0])
        at += len(group.windows)
        del group, logits
    if output is None:
        raise ValueError("expected at least one window, got none")
    return output.mul_(scale), kept


def _logits(
    predictor: SlidingWindow, images: Tensor, group: _Group, graph: bool, replay: bool, prepare: bool
) -> Tensor:
    """The logits of a group, with a graph from its patches or without one."""
    with torch.set_grad_enabled(graph):
        group.patches = _gather(images, group.windows).requires_grad_(graph)
        return predictor._network(group.patches, replay=replay, prepare=prepare)


def _spread(predictor: SlidingWindow, images: Tensor, grad_output: Tensor, groups: deque[_Group]) -> Tensor:
    """Gradient of the volume from that of its blended logits, group by group."""
    window, scale = predictor.weights(images)
    grad = torch.zeros_like(images)
    while groups:
        group = groups.popleft()
        upstream = grad_output.new_empty((len(group.windows), grad_output.shape[1], *predictor.roi_size))
        for (b, box), item in zip(group.windows, upstream, strict=True):
            torch.mul(grad_output[(b, slice(None), *box)], scale[(0, slice(None), *box)], out=item)
        upstream.mul_(window)
        patch_grad = attempt(partial(_gradient, predictor, images, group, upstream))
        if isinstance(patch_grad, RuntimeError):
            size = len(group.windows)
            rest = [w for waiting in (group, *groups) for w in waiting.windows]
            had_graph = group.logits is not None
            group.patches = group.logits = None
            groups.clear()
            if predictor.graphs.drop():
                release(images.device)
            elif had_graph:
                predictor._fit.stop_keeping(images.device)
            else:
                size = predictor._fit.shrink(_gather(images, rest[:1]), size, patch_grad)
            groups.extend(_split(rest, size))
            continue
        for (b, box), item in zip(group.windows, patch_grad, strict=True):
            grad[(b, slice(None), *box)].add_(item)
    return grad


def _gradient(predictor: SlidingWindow, images: Tensor, group: _Group, upstream: Tensor) -> Tensor:
    """Gradient of a group's windows, from its graph if there is one."""
    if group.logits is not None and group.patches is not None:
        (gradient,) = torch.autograd.grad(group.logits, group.patches, upstream.to(group.logits.dtype))
        return gradient
    with torch.enable_grad():
        patches = _gather(images, group.windows).requires_grad_()
        logits = predictor._network(patches)
        # The same gradient as passing `upstream` to autograd.grad, which would hold every activation of
        # the window until the end (measured: 73 against 40 MB for nine convolutions at 32^3).
        weighted = (logits * upstream.to(logits.dtype)).sum()
        del logits
    (gradient,) = torch.autograd.grad(weighted, patches)
    return gradient


def _in_backward() -> bool:
    """Whether a backward pass runs the windows again, as nnU-Net's does: no graph can be recorded there."""
    return torch._C._current_graph_task_id() != -1


def _split(windows: list[Window], size: int) -> Iterable[_Group]:
    return [_Group(windows[i : i + size]) for i in range(0, len(windows), size)]


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``, or off."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _gather(images: Tensor, group: list[Window]) -> Tensor:
    return torch.stack([images[(b, slice(None), *box)] for b, box in group]).detach()


def _starts(side: int, roi: int, overlap: float) -> list[int]:
    """Window starts along one axis: regular steps, the last one shifted back inside (MONAI's rule)."""
    if side == roi:
        return [0]
    interval = max(int(roi * (1 - overlap)), 1)
    count = -(-(side - roi) // interval) + 1
    return [min(i * interval, side - roi) for i in range(count)]


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
