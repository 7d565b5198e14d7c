"""Surfaces that nearly agree: looking a few voxels around finds most of their distances, exactly and soon."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .directed import Directed, ranks
from .surfaces import MARGIN, LabelSurfaces, length_mm

_RADIUS = 3.6  # mean voxel sizes, about 190 offsets


_SURE = 2.4  # mean voxel sizes that are looked at though lengths there may differ by rounding only


_CHEAP = 1.5  # mean voxel sizes up to which every class looks until it is past the limit


class _Ring(NamedTuple):
    """Offsets of one length.

    Attributes:
        steps: the offsets in the flat padded volume.
        length: of each, in mm.
        beyond: what no offset outside this ring and those before it is shorter than, in mm.
    """

    steps: tuple[int, ...]
    length: float
    beyond: float


class Nearby:
    """Surface voxels of ``origin`` and, where it is small, their distance to the surface of ``target``.

    A class leaves the search when only voxels above its percentile are left, or when so many are left that a tree will
    be quicker.

    Args:
        origin, target: volumes of one shape and spacing.
        class_ids: ascending classes with at least one voxel in each.
        limit: in mm, what distances are to be compared with.

    Attributes:
        counts: voxels per class.
        cuts: where each class begins, and where the last one ends.
        distance: in mm, infinite where it is not known.
        beyond: per class, what no unknown distance is less than, in mm.
    """

    def __init__(
        self, origin: LabelSurfaces, target: LabelSurfaces, class_ids: Sequence[int], limit: np.float32
    ) -> None:
        self.target, self.class_ids, self.limit = target, class_ids, limit
        spans = [slice(*origin.cuts[[class_id, class_id + 1]]) for class_id in class_ids]
        chosen = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        self.counts = np.array([span.stop - span.start for span in spans])
        self.cuts = np.concatenate([[0], np.cumsum(self.counts)])
        self.voxels = origin.voxels.take(chosen, axis=1)
        self.distance = np.full(len(chosen), np.inf)
        self.beyond = np.zeros(len(spans))
        self._search(origin.points.take(chosen), origin.classes.take(chosen))

    def directed(self, index: int) -> Directed:
        """What is known of one class, and what finds the rest; it writes what it finds into ``distance``."""
        span = slice(self.cuts[index], self.cuts[index + 1])
        return Directed(
            self.target,
            self.class_ids[index],
            voxels=self.voxels[:, span],
            distance=self.distance[span],
            beyond=float(self.beyond[index]),
            limit=self.limit,
        )

    def within(self) -> np.ndarray:
        """Which voxels lie within the limit."""
        return self.distance.astype(np.float32) <= self.limit

    def _search(self, where: np.ndarray, wanted: np.ndarray) -> None:
        """Try offsets in order of length: the first that lands on the target is the exact distance."""
        rings = _rings(tuple(self.target.spacing_mm), self.target.shape)
        # From here on views of the target are moved, not the positions.
        farthest = max(max(ring.steps) for ring in rings)
        where = where - farthest
        index = np.arange(len(where))
        group = np.repeat(np.arange(len(self.counts)), self.counts)
        for ring in rings:
            hit = np.zeros(len(where), bool)
            for step in ring.steps:
                hit |= self.target.flat[farthest + step :].take(where) == wanted
            self.distance[index[hit]] = ring.length
            left = np.bincount(group[~hit], minlength=len(self.counts))
            leaving = self._leaving(left, ring, rings[-1].length)
            self.beyond[leaving & (self.beyond == 0)] = ring.beyond
            stay = np.flatnonzero(~(hit | leaving[group]))
            if not len(stay):
                return
            where, wanted, index, group = (of.take(stay) for of in (where, wanted, index, group))
        self.beyond[self.beyond == 0] = rings[-1].beyond

    def _leaving(self, left: np.ndarray, ring: _Ring, radius: float) -> np.ndarray:
        """Which classes leave after ``ring``, with ``left`` voxels of each unknown."""
        past_limit = ring.beyond > self.limit * (1 + 1e-6)
        few = left < self.counts - np.minimum(ranks(self.counts) + 1, self.counts - 1)
        # Shares left shrink about exponentially with the distance; this much, and the radius will not settle it.
        many = left > self.counts * 0.9 * 0.05 ** (ring.length / (1.5 * radius))
        cheap = ring.beyond <= _CHEAP * self.target.voxel_mm
        return (few & past_limit) | (many & (past_limit | (not cheap)))


@lru_cache(maxsize=32)
def _rings(spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> tuple[_Ring, ...]:
    """All offsets up to some length, in rings of one length, nearest first."""
    spacing = np.asarray(spacing_mm)
    size = float(np.exp(np.mean(np.log(spacing))))
    # Never farther than the margin on the finest axis.
    radius, sure = (min(voxels * size, MARGIN * float(spacing.min())) for voxels in (_RADIUS, _SURE))
    reach = [int(radius / size) + 1 for size in spacing]
    grid = np.meshgrid(*(np.arange(-size, size + 1) for size in reach), indexing="ij")
    offsets = np.stack([axis.reshape(-1) for axis in grid])
    lengths = length_mm(offsets, spacing[:, None])
    distinct = np.unique(lengths)
    # Where lengths are the same but for rounding, a tree may find either. Stopping before makes the result the same
    # bits whichever way a voxel is settled.
    alike = distinct[1:][np.diff(distinct) < 1e-9 * distinct[1:]]
    if len(alike):
        radius = min(radius, max(sure, alike[0] * (1 - 1e-6)))
    count = int(np.searchsorted(distinct, radius, side="right"))
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    return tuple(
        _Ring(
            tuple(int(step) for step in strides @ offsets[:, lengths == length]), float(length), float(beyond)
        )
        for length, beyond in itertools.pairwise(distinct[: count + 1])
    )
