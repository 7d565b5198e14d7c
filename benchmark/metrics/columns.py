"""Surfaces several voxels apart: the distance along a column of voxels first, then across columns.

The nearest voxel along one axis is found for every voxel of a box around a class at once. What is left to search are the
columns around a point, in order of their distance: some hundred instead of some thousand voxels. A point is settled
when all nearer columns were looked at. So one look yields the distances of a class exactly, without a search tree.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .directed import Directed
from .surfaces import length_mm

_FARTHEST = 12.0  # mean voxel sizes; a search tree is quicker from there on


_ALLOWANCE = 2.0  # mean voxel sizes by which surfaces may lie farther apart than their bounding boxes


_FEW = 256  # points of both directions that a search tree finds as soon


_KEEP = 0.75  # points stay together until fewer than this share of them are left


_ROOM = 500  # voxels of a box per point, where a search tree is quicker


_MOST_STEPS = 127  # along a column, so that adding two numbers of steps does not overflow a byte


_SLACK = 1e-9  # share by which the radius is not trusted, so that rounding cannot make a distance wrong


class _Rings(NamedTuple):
    """Columns around a point, nearest first.

    Attributes:
        axis: along which columns run.
        offsets: ``(rank - 1, columns)``, by ring.
        cuts: where each ring begins, and where the last one ends.
        lengths: ``(rings, steps + 2)`` in mm: to the voxel so many steps along a column of the ring. The last one is
            infinite and stands for none.
    """

    axis: int
    offsets: np.ndarray
    cuts: np.ndarray
    lengths: np.ndarray

    @property
    def none(self) -> int:
        """The number of steps that stands for none."""
        return self.lengths.shape[1] - 1


@lru_cache(maxsize=32)
def _rings(spacing_mm: tuple[float, ...], radius: float) -> _Rings:
    """All columns within a radius; those of one ring have the same lengths."""
    spacing = np.asarray(spacing_mm)
    axis = int(np.argmin(spacing))
    across = np.arange(len(spacing)) != axis
    reach = (radius / spacing).astype(int)
    grid = itertools.product(*(range(-size, size + 1) for size in reach[across]))
    offsets = np.array(list(grid), dtype=np.int64).T
    steps = np.zeros((len(spacing), offsets.shape[1], reach[axis] + 1))
    steps[across] = offsets[:, :, None]
    steps[axis] = np.arange(reach[axis] + 1)
    lengths = length_mm(steps, spacing[:, None, None])
    inside = lengths[:, 0] <= radius
    lengths, ring = np.unique(lengths[inside], axis=0, return_inverse=True)
    cuts = np.concatenate([[0], np.cumsum(np.bincount(ring))])
    lengths = np.pad(lengths, ((0, 0), (0, 1)), constant_values=np.inf)
    return _Rings(axis, offsets[:, inside][:, np.argsort(ring, kind="stable")], cuts, lengths)


def look_along_columns(pair: Sequence[Directed]) -> None:
    """Tell both directions of one class the distances that a moderate displacement makes, where that is quick.

    Every distance below what a direction is told for its unknown ones is found, and to the bit the least
    :func:`~.surfaces.length_mm` to any voxel of the target.
    """
    asking = [side for side in pair if side.asks]
    if sum(len(side.pending) for side in asking) <= _FEW:
        return
    spacing, size = asking[0].target.spacing_mm, asking[0].target.voxel_mm
    farthest = _FARTHEST * size
    limit = float(asking[0].limit) * (1 + 1e-6)
    past_limit = limit * (1 + 1e-6) + _SLACK * size  # also past a limit of 0
    surfaces = [side.target.surface(side.class_id) for side in pair]
    radius = _apart(surfaces, spacing) + _ALLOWANCE * size
    if radius > farthest:
        # Too far for the percentile, not always for counting what lies within the limit.
        asking, radius = [side for side in asking if side.near], past_limit
    elif past_limit <= farthest and any(side.near for side in asking):
        radius = max(radius, past_limit)
    if not asking or radius > farthest or farthest / min(spacing) >= _MOST_STEPS or len(spacing) > 3:
        return
    box = _Box(asking, radius)
    if box.size * len(asking) > _ROOM * sum(len(side.pending) for side in asking):
        return
    found, beyond = _search(box, asking, _rings(tuple(spacing), farthest), limit)
    for side, distance in zip(asking, found, strict=True):
        side.learn(distance, beyond)


def _apart(surfaces: Sequence[np.ndarray], spacing: np.ndarray) -> float:
    """How far the bounding boxes of two surfaces are displaced, in mm: an idea of how far to look."""
    first, second = surfaces
    faces = np.abs(first.min(axis=1) - second.min(axis=1)) + np.abs(first.max(axis=1) - second.max(axis=1))
    return float(np.linalg.norm(spacing * faces / 2))


class _Box:
    """The part of the volume in which points of some directions may find a target within a radius.

    Attributes:
        reach: the radius in voxels, per axis; the box is padded by it.
        low, high: of the points inside, which need not be all.
        strides, size: of the padded box as a flat array.
    """

    def __init__(self, sides: Sequence[Directed], radius: float) -> None:
        self.radius = radius
        self.reach = (radius / sides[0].target.spacing_mm).astype(np.int64)
        targets = [side.target.surface(side.class_id) for side in sides]
        each = list(zip(sides, targets, strict=True))
        lows = [np.maximum(side.voxels.min(axis=1), to.min(axis=1) - self.reach) for side, to in each]
        highs = [np.minimum(side.voxels.max(axis=1), to.max(axis=1) + self.reach) for side, to in each]
        self.low, self.high = np.min(lows, axis=0), np.max(highs, axis=0)
        shape = np.maximum(self.high - self.low, 0) + 1 + 2 * self.reach
        self.strides = np.cumprod([1, *shape[:0:-1]])[::-1]
        self.size = int(np.prod(shape))

    def inside(self, voxels: np.ndarray, pad: int | np.ndarray = 0) -> tuple[np.ndarray, np.ndarray]:
        """Which voxels lie in the box with a margin of ``pad`` voxels, and where in the flat array."""
        low, high = self.low - pad, self.high + pad
        if (voxels.min(axis=1) >= low).all() and (voxels.max(axis=1) <= high).all():
            chosen = np.arange(voxels.shape[1])
        else:
            within = (voxels >= low[:, None]) & (voxels <= high[:, None])
            chosen = np.flatnonzero(within.all(axis=0))
            voxels = voxels.take(chosen, axis=1)
        return chosen, self.strides @ voxels - self.strides @ (self.low - self.reach)

    def steps(self, target: np.ndarray, axis: int, none: int) -> np.ndarray:
        """For every voxel the steps along ``axis`` to the nearest of the target, ``none`` where out of reach."""
        steps = np.full(self.size, none, np.uint8)
        steps[self.inside(target, pad=self.reach)[1]] = 0
        moved, covered, reach = np.empty_like(steps), 0, int(self.reach[axis])
        # What is known about a neighbourhood of so many steps doubles it. In the flat array, where the padding
        # keeps the columns apart.
        while covered < reach:
            step = min(covered + 1, reach - covered)
            far = step * int(self.strides[axis])
            np.add(steps, step, out=moved)
            np.minimum(steps[far:], moved[:-far], out=steps[far:])
            np.minimum(steps[:-far], moved[far:], out=steps[:-far])
            covered += step
        return steps


def _search(
    box: _Box, sides: Sequence[Directed], rings: _Rings, limit: float
) -> tuple[list[np.ndarray], float]:
    """Look ring by ring until no side asks.

    Returns:
        Per side the distances of the pending points, infinite where unknown, and what those are not less than.
    """
    steps = np.concatenate(
        [box.steps(side.target.surface(side.class_id), rings.axis, rings.none) for side in sides]
    )
    last = int(np.searchsorted(rings.lengths[:, 0], box.radius, side="right"))
    moves = np.delete(box.strides, rings.axis) @ rings.offsets[:, : rings.cuts[last]]
    farthest = int(moves.max())
    following = [*rings.lengths[1:last, 0].tolist(), box.radius * (1 - _SLACK)]

    # The points of all sides in one array, side after side.
    parts = [box.inside(side.voxels) for side in sides]
    starts = np.cumsum([0, *(len(side.pending) for side in sides)])
    ends = np.cumsum([0, *(len(chosen) for chosen, _ in parts)])
    outside, above = np.diff(starts) - np.diff(ends), [side.above for side in sides]
    index = np.concatenate([chosen + start for (chosen, _), start in zip(parts, starts[:-1], strict=True)])
    # From here on views of the steps are moved, not the positions.
    where = np.concatenate([flat + number * box.size for number, (_, flat) in enumerate(parts)]) - farthest
    found, best, beyond = np.full(starts[-1], np.inf), np.full(len(index), np.inf), 0.0
    for ring, beyond in enumerate(following):
        first, *others = (moves[rings.cuts[ring] : rings.cuts[ring + 1]] + farthest).tolist()
        nearest = steps[first:].take(where)
        for move in others:
            np.minimum(nearest, steps[move:].take(where), out=nearest)
        np.minimum(best, rings.lengths[ring].take(nearest, mode="clip"), out=best)
        unsettled = best > beyond
        if np.count_nonzero(unsettled) > _KEEP * len(best):
            continue
        found[index] = best
        stay = np.flatnonzero(unsettled)
        ends = np.searchsorted(stay, ends)
        index, where, best = index.take(stay), where.take(stay), best.take(stay)
        if beyond > limit and (np.diff(ends) + outside < above).all():
            break
    found[index] = np.where(best <= beyond, best, np.inf)
    return np.split(found, starts[1:-1]), beyond
