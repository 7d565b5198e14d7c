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


_FEW = 256  # points that a search tree finds as soon


_SHRINK = 4  # points are dropped when one of so many is settled


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
    """Tell both directions of one class the distances that a moderate displacement makes, where that is quick."""
    asking = [side for side in pair if side.asks and len(side.pending) > _FEW]
    if not asking:
        return
    spacing, size = asking[0].target.spacing_mm, asking[0].target.voxel_mm
    rings = _rings(tuple(spacing), _FARTHEST * size)
    if rings.lengths.shape[1] > _MOST_STEPS:
        return
    limit = float(asking[0].limit) * (1 + 1e-6)
    radius = _apart([side.target.surface(side.class_id) for side in pair], spacing) + _ALLOWANCE * size
    if radius > _FARTHEST * size:
        asking, radius = [side for side in asking if side.near], limit * (1 + 1e-6)
    if not asking or radius > _FARTHEST * size:
        return
    for side, found, beyond in zip(asking, *_search(asking, rings, radius, limit), strict=True):
        side.learn(found, beyond)


def _apart(surfaces: Sequence[np.ndarray], spacing: np.ndarray) -> float:
    """How far the bounding boxes of two surfaces are displaced, in mm."""
    low, high = (np.array([end(surface, axis=1) for surface in surfaces]) for end in (np.min, np.max))
    return float(np.linalg.norm(spacing * (np.abs(low[0] - low[1]) + np.abs(high[0] - high[1])) / 2))


def _search(
    sides: Sequence[Directed], rings: _Rings, radius: float, limit: float
) -> tuple[list[np.ndarray], list[float]]:
    box = _Box(sides, radius)
    none = rings.lengths.shape[1] - 1
    steps = np.concatenate([box.steps(side, along=rings.axis, none=none) for side in sides])
    last = int(np.searchsorted(rings.lengths[:, 0], radius, side="right"))
    across = np.delete(box.strides, rings.axis) @ rings.offsets[:, : rings.cuts[last]]
    farthest = int(across.max())
    across = [across[slice(*cut)].tolist() for cut in itertools.pairwise(rings.cuts[: last + 1].tolist())]
    following = [*rings.lengths[1:last, 0].tolist(), radius * (1 - _SLACK)]

    above = [side.above for side in sides]
    ends = np.cumsum([0] + [len(side.pending) for side in sides])
    found = np.full(ends[-1], np.inf)
    parts = [box.inside(side.voxels) for side in sides]
    index = np.concatenate([chosen + end for (chosen, _), end in zip(parts, ends[:-1], strict=True)])
    where = np.concatenate([flat + k * box.size for k, (_, flat) in enumerate(parts)]) - farthest
    outside = np.diff(ends) - [len(chosen) for chosen, _ in parts]
    cuts = np.cumsum([0] + [len(chosen) for chosen, _ in parts])
    best = np.full(len(where), np.inf)
    beyond = 0.0
    for (first, *others), lengths, beyond in zip(across, rings.lengths, following, strict=False):
        codes = steps[farthest + first :].take(where)
        for step in others:
            np.minimum(codes, steps[farthest + step :].take(where), out=codes)
        np.minimum(best, lengths.take(codes, mode="clip"), out=best)
        open_ = best > beyond
        left = np.count_nonzero(open_)
        if left * _SHRINK > len(best) * (_SHRINK - 1):
            continue
        stay = open_.nonzero()[0]
        found[index] = best
        cuts = np.searchsorted(stay, cuts)
        index, where, best = index.take(stay), where.take(stay), best.take(stay)
        if beyond > limit and (np.diff(cuts) + outside < above).all():
            break
    found[index] = np.where(best <= beyond, best, np.inf)
    return np.split(found, ends[1:-1]), [beyond] * len(sides)


class _Box:
    def __init__(self, sides: Sequence[Directed], radius: float) -> None:
        self.reach = (radius / sides[0].target.spacing_mm).astype(np.int64)
        lows, highs = [], []
        for side in sides:
            surface = side.target.surface(side.class_id)
            lows.append(np.maximum(side.voxels.min(axis=1), surface.min(axis=1) - self.reach))
            highs.append(np.minimum(side.voxels.max(axis=1), surface.max(axis=1) + self.reach))
        self.low, self.high = np.min(lows, axis=0), np.max(highs, axis=0)
        shape = np.maximum(self.high - self.low, 0) + 1 + 2 * self.reach
        self.strides = np.cumprod([1, *shape[:0:-1]])[::-1]
        self.size = int(np.prod(shape))

    def inside(self, voxels: np.ndarray, pad: int | np.ndarray = 0) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.low - pad, self.high + pad
        if (voxels.min(axis=1) >= low).all() and (voxels.max(axis=1) <= high).all():
            index = np.arange(voxels.shape[1])
        else:
            index = ((voxels >= low[:, None]) & (voxels <= high[:, None])).all(axis=0).nonzero()[0]
            voxels = voxels.take(index, axis=1)
        return index, self.strides @ voxels - self.strides @ (self.low - self.reach)

    def steps(self, side: Directed, along: int, none: int) -> np.ndarray:
        steps = np.full(self.size, none, np.uint8)
        steps[self.inside(side.target.surface(side.class_id), pad=self.reach)[1]] = 0
        moved, reach, covered = np.empty_like(steps), int(self.reach[along]), 0
        while covered < reach:
            step = min(covered + 1, reach - covered)
            by = step * int(self.strides[along])
            np.add(steps, step, out=moved)
            np.minimum(steps[by:], moved[:-by], out=steps[by:])
            np.minimum(steps[:-by], moved[by:], out=steps[:-by])
            covered += step
        return steps
