"""The visible logo of `KeyedMark`: where it may stand, how it is blended in, and the search for its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .task import BestIterate, Task

#: the letter R, as rows of a 7 x 5 raster
_LETTER = (
    "1111.",
    "1...1",
    "1...1",
    "1111.",
    "1.1..",
    "1..1.",
    "1...1",
)


@dataclass(frozen=True)
class Placement:
    """One logo in one sample.

    Attributes:
        corner: lowest index of its box per spatial axis.
        opacity: share of what lies below that it covers, in [0, 1].
        shade: 0 black or 1 white.
    """

    corner: tuple[int, ...]
    opacity: float
    shade: int


@torch.no_grad()
def stamp(task: Task, taken: Tensor, *, steps: int, opacity: float, loss: str) -> Tensor:
    """The best of steps + 1 random placements per sample.

    Args:
        task: the batch.
        taken: (B, 1, *spatial) bool, True where no voxel of the logo's box may lie.
        steps: placements after the first.
        opacity: most opacity.
        loss: key of `losses.LOSSES`, for ties of the metric.

    Returns:
        (B, C, *spatial).

    Raises:
        ValueError: if the box fits nowhere in a sample.
    """
    best, objective = BestIterate(task, steps), task.objective(loss)
    box = box_sides(task.images.shape[2:])
    letter = raster(box).to(task.images.device)
    places = [_Places(one[0], box) for one in taken.cpu()]
    for step in range(steps + 1):
        drawn = [_draw(where, stream, opacity) for where, stream in zip(places, task.streams, strict=True)]
        images = torch.stack([blend(x, letter, one) for x, one in zip(task.images, drawn, strict=True)])
        logits = task.logits(images)
        best.offer(images, logits, objective(logits, step))
    return best.images


def box_sides(spatial: Sequence[int]) -> tuple[int, ...]:
    """A quarter of every side, at least one voxel."""
    return tuple(max(side // 4, 1) for side in spatial)


def raster(box: Sequence[int]) -> Tensor:
    """The letter as a slab (*box) bool, upright in the plane of the first two axes, the same along the others."""
    rows = torch.tensor([[cell == "1" for cell in row] for row in _LETTER])
    at = [
        (torch.arange(side) * size).div(side, rounding_mode="floor")
        for side, size in zip(box[:2], rows.shape, strict=True)
    ]
    plane = rows[at[0]][:, at[1]]
    return plane.view(*box[:2], *[1] * (len(box) - 2)).expand(*box)


def blend(image: Tensor, letter: Tensor, placement: Placement) -> Tensor:
    """One image (C, *spatial) with the logo: x + a (c - x) on its voxels, every other voxel untouched."""
    box = (slice(None), *(slice(c, c + s) for c, s in zip(placement.corner, letter.shape, strict=True)))
    marked = image.clone()
    below = image[box]
    marked[box] = torch.where(
        letter, torch.lerp(below, torch.full_like(below, placement.shade), placement.opacity), below
    )
    return marked


class _Places:
    """Corners of boxes that keep clear of what is taken, in one sample (*spatial)."""

    def __init__(self, taken: Tensor, box: Sequence[int]) -> None:
        # Summed along every axis over the box: zero where no voxel of it is taken.
        counts = taken.to(torch.int64)
        for axis, side in enumerate(box):
            sums = counts.cumsum(axis)
            head = torch.zeros_like(sums.narrow(axis, 0, 1))
            sums = torch.cat([head, sums], axis)
            length = counts.shape[axis] - side + 1
            counts = sums.narrow(axis, side, length) - sums.narrow(axis, 0, length)
        self._clear = (counts == 0).nonzero()
        if not len(self._clear):
            raise ValueError(
                f"kind: expected a place for a logo of {'x'.join(map(str, box))} voxels outside the label and its "
                "margin, got none. Lower margin_mm or use kind='field'"
            )

    def draw(self, stream: torch.Generator) -> tuple[int, ...]:
        return tuple(self._clear[int(torch.randint(len(self._clear), (), generator=stream))].tolist())


def _draw(places: _Places, stream: torch.Generator, opacity: float) -> Placement:
    corner = places.draw(stream)
    share = (1 + torch.rand((), generator=stream, dtype=torch.float64).item()) / 2
    return Placement(corner, opacity * share, int(torch.randint(2, (), generator=stream)))
