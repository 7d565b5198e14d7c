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


_SHRINK = 8  # points are dropped when one of so many is settled


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
    target = asking[0].target
    farthest = _FARTHEST * target.voxel_mm
    rings = _rings(tuple(target.spacing_mm), farthest)
    if rings.lengths.shape[1] > 128:
        return
    surfaces = [side.target.surface(side.class_id) for side in pair]
    radius = _apart(surfaces, target.spacing_mm) + _ALLOWANCE * target.voxel_mm
    if radius > farthest:
        asking, radius = [side for side in asking if side.near], float(asking[0].limit) * (1 + 2e-6)
    if asking and radius <= farthest:
        _Columns(asking, rings, radius).search()


def _apart(surfaces: Sequence[np.ndarray], spacing: np.ndarray) -> float:
    """How far the bounding boxes of two surfaces are displaced, in mm."""
    low, high = (np.array([end(surface, axis=1) for surface in surfaces]) for end in (np.min, np.max))
    return float(np.linalg.norm(spacing * (np.abs(low[0] - low[1]) + np.abs(high[0] - high[1])) / 2))


class _Columns:
    def __init__(self, sides: Sequence[Directed], rings: _Rings, radius: float) -> None:
        self.sides, self.rings, self.radius = sides, rings, radius
        spacing = sides[0].target.spacing_mm
        reach = (radius / spacing).astype(np.int64)
        self.order = [*(axis for axis in range(len(spacing)) if axis != rings.axis)]
        surfaces = [side.target.surface(side.class_id) for side in sides]
        lows, highs = [], []
        for side, surface in zip(sides, surfaces, strict=True):
            lows.append(np.maximum(side.voxels.min(axis=1), surface.min(axis=1) - reach))
            highs.append(np.minimum(side.voxels.max(axis=1), surface.max(axis=1) + reach))
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        self.low, self.high = low[:, None], high[:, None]
        self.corner = self.low - reach[:, None]
        shape = np.maximum(high - low, 0) + 1 + 2 * reach
        axes = [rings.axis, *self.order]
        self.strides = np.empty(len(axes), np.int64)
        self.strides[axes] = np.cumprod([1, *shape[axes[:0:-1]]])[::-1]
        self.size = int(np.prod(shape))
        self.flat = np.full((len(sides), self.size), rings.lengths.shape[1] - 1, np.uint8)
        for row, surface in zip(self.flat, surfaces, strict=True):
            row[self._inside(surface, self.corner, self.corner + shape[:, None] - 1)[1]] = 0
        self.flat = self.flat.reshape(-1)
        moved, covered, most = np.empty_like(self.flat), 0, int(reach[rings.axis])
        while covered < most:
            step = min(covered + 1, most - covered)
            by = step * int(self.strides[rings.axis])
            np.add(self.flat, step, out=moved)
            np.minimum(self.flat[by:], moved[:-by], out=self.flat[by:])
            np.minimum(self.flat[:-by], moved[by:], out=self.flat[:-by])
            covered += step

    def _inside(self, voxels, low, high):
        inside = ((voxels >= low) & (voxels <= high)).all(axis=0)
        index = np.flatnonzero(inside)
        if len(index) < voxels.shape[1]:
            voxels = voxels.take(index, axis=1)
        return index, self.strides @ (voxels - self.corner)

    def search(self) -> None:
        rings, sides = self.rings, self.sides
        last = int(np.searchsorted(rings.lengths[:, 0], self.radius, side="right"))
        steps = (self.strides[self.order] @ rings.offsets[:, : rings.cuts[last]])
        farthest = int(steps.max())
        steps = (steps).tolist()
        parts = [self._inside(side.voxels, self.low, self.high) for side in sides]
        found = [np.full(len(side.pending), np.inf) for side in sides]
        where = np.concatenate([w + k * self.size for k, (_, w) in enumerate(parts)]) - farthest
        offs = np.cumsum([0] + [len(f) for f in found])
        index = np.concatenate([i + o for (i, _), o in zip(parts, offs)])
        found = np.concatenate(found)
        group = np.repeat(np.arange(len(sides)), [len(i) for i, _ in parts])
        outside = np.array([len(s.pending) - len(i) for s, (i, _) in zip(sides, parts)])
        above = np.array([s.above for s in sides])
        limit = float(sides[0].limit) * (1 + 1e-6)
        beyond = np.zeros(len(sides))
        best = np.full(len(where), np.inf)
        for ring in range(last):
            first, *others = steps[rings.cuts[ring] : rings.cuts[ring + 1]]
            codes = self.flat[farthest + first :].take(where)
            for step in others:
                np.minimum(codes, self.flat[farthest + step :].take(where), out=codes)
            np.minimum(best, rings.lengths[ring].take(codes), out=best)
            final = ring + 1 == last
            following = self.radius * (1 - _SLACK) if final else float(rings.lengths[ring + 1, 0])
            settled = best <= following
            if final or np.count_nonzero(settled) * _SHRINK > len(best):
                found[index[settled]] = best[settled]
                stay = np.flatnonzero(~settled)
                if following > limit:
                    left = np.bincount(group.take(stay), minlength=len(sides)) + outside
                    leaving = left < above
                    beyond[leaving & (beyond == 0)] = following
                    stay = stay[~leaving.take(group.take(stay))]
                if not len(stay):
                    break
                index, where, group, best = (x.take(stay) for x in (index, where, group, best))
        beyond[beyond == 0] = following
        for k, side in enumerate(sides):
            side.learn(found[offs[k] : offs[k + 1]], float(beyond[k]))
