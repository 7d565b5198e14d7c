"""Surfaces that nearly agree: looking a few voxels around finds most of their distances, exactly and soon."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .directed import Directed
from .surfaces import MARGIN, LabelSurfaces, length_mm

_RADIUS = 3.6  # mean voxel sizes, about 190 offsets


class Ring(NamedTuple):
    """Offsets of one length.

    Attributes:
        steps: the offsets in the flat padded volume.
        length: of each, in mm.
        beyond: no offset outside this ring and those before it is shorter than this.
    """

    steps: tuple[int, ...]
    length: float
    beyond: float


class Nearby:
    """Surface voxels of ``origin`` and their distance in mm to the surface of ``target``, where that is small.

    A class leaves the search when it is known which few voxels lie farther than its percentile, or when so many
    lie farther that a tree will be quicker.

    Args:
        origin, target: volumes of one shape and spacing.
        class_ids: ascending classes with at least one voxel in each.
        top: voxels per class that the percentile leaves above itself.
        limit: distance in mm up to which a class is not left with voxels unknown.

    Attributes:
        voxels: ``(rank, n)``, class after class.
        cuts: where each class begins, and where the last one ends.
        distance: ``(n,)``, infinite where it is not known.
        beyond: per class, what no unknown distance is less than.
    """

    def __init__(
        self,
        origin: LabelSurfaces,
        target: LabelSurfaces,
        class_ids: Sequence[int],
        limit: float,
    ) -> None:
        self.target, self.class_ids = target, class_ids
        spans = [slice(*origin.cuts[[class_id, class_id + 1]]) for class_id in class_ids]
        chosen = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        self.counts = np.array([span.stop - span.start for span in spans])
        self.cuts = np.concatenate([[0], np.cumsum(self.counts)])
        self.voxels = origin.voxels.take(chosen, axis=1)
        self.distance = np.full(len(chosen), np.inf)
        self.beyond = np.zeros(len(spans))
        rings = _rings(tuple(origin.spacing_mm), origin.shape)
        self._search(rings, origin.points.take(chosen), origin.classes.take(chosen), target.flat, limit)

    def directed(self, index: int, limit: np.float32) -> Directed:
        span = slice(self.cuts[index], self.cuts[index + 1])
        return Directed(
            self.target, self.class_ids[index], self.voxels[:, span], self.distance[span], float(self.beyond[index]), limit
        )

    def _search(
        self, rings: tuple[Ring, ...], where: np.ndarray, wanted: np.ndarray, flat: np.ndarray, limit: float
    ) -> None:
        group = np.repeat(np.arange(len(self.counts)), self.counts)
        index = np.arange(len(where))
        ever = self.counts - 1 - ranks(self.counts)[1]
        farthest = max(max(ring.steps) for ring in rings)
        radius = rings[-1].length
        where = where - farthest
        for ring in rings:
            hit = np.zeros(len(where), bool)
            for step in ring.steps:
                hit |= flat[farthest + step :].take(where) == wanted
            self.distance[index[hit]] = ring.length
            left = np.bincount(group[~hit], minlength=len(self.counts))
            few = (left <= ever) & (ring.beyond > limit)
            share = 0.9 * 0.05 ** (ring.length / (1.5 * radius))
            many = left > share * self.counts
            go = few | many
            stay = np.flatnonzero(~(hit | go[group]))
            gone = go & (self.beyond == 0)
            self.beyond[gone] = ring.beyond
            if not len(stay):
                return
            where, wanted, index, group = (of.take(stay) for of in (where, wanted, index, group))
        self.beyond[self.beyond == 0] = rings[-1].beyond


def ranks(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rank = (95.0 / 100.0 * (counts - 1)).astype(int)
    return rank, np.minimum(rank + 1, counts - 1)


@lru_cache(maxsize=32)
def _rings(spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> tuple[Ring, ...]:
    """All offsets up to a length, in groups of one length in mm, nearest first."""
    spacing = np.asarray(spacing_mm)
    # Never farther than the margin on the finest axis.
    radius = min(_RADIUS * float(np.exp(np.mean(np.log(spacing)))), MARGIN * float(spacing.min()))
    reach = [int(1.5 * radius / size) + 1 for size in spacing]
    grid = np.meshgrid(*(np.arange(-size, size + 1) for size in reach), indexing="ij")
    offsets = np.stack([axis.reshape(-1) for axis in grid])
    lengths = length_mm(offsets, spacing[:, None])
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    distinct = np.unique(lengths)
    count = int(np.searchsorted(distinct, radius, side="right"))
    # stop before lengths that differ by rounding only
    close = np.flatnonzero(np.diff(distinct) < 1e-9 * distinct[1:])
    if len(close):
        count = min(count, max(close[0], int(np.searchsorted(distinct, 2.4/3.6*radius, side="right"))))
    return tuple(
        Ring(tuple(int(s) for s in strides @ offsets[:, lengths == d]), float(d), float(b))
        for d, b in zip(distinct[:count], distinct[1 : count + 1], strict=True)
    )
