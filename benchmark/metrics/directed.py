"""One class, one direction: bounds on the distances of one surface to another, tightened until they decide.

Of ``n`` distances HD95 needs two neighbouring order statistics, NSD a count, so few need to be known exactly. Where
looking nearby did not settle it (:mod:`.nearby`), points are asked for in a search tree:

1. The points that are left share cells as wide as some of the distance, and the nearest target of a cell's center is
   looked up. It gives every point of the cell an upper bound; and since the distance to a surface changes no faster
   than one moves, the center's distance gives it a lower bound.
2. Where bounds straddle what they are to decide, the center is moved away from the surface. From farther out the same
   empty ball touches the whole cell, so the lower bounds get as tight as the upper ones.
3. The farthest points by their upper bounds, as many as the percentile leaves above itself, are measured: the least
   of them bounds the percentile from below. What still straddles is measured as well.

Bounds decide which points are measured, never what is returned: the results are those of measuring all.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from .surfaces import LabelSurfaces, length_mm

Asking = Generator[np.ndarray, np.ndarray, None]
"""Yields positions ``(rank, n)`` in voxels and is sent the target's nearest surface voxels ``(rank, n)``."""


_PERCENTILE = 95.0


_SAMPLE = 8  # points per class that are measured for a first idea of the distance


_CELL = 0.7  # side of a cell over the distance, and in mean voxel sizes at least:
_FINEST = 2.5


_OUTWARD = 2.0  # how far a center is moved away from the surface, over its distance


_FEW = 64  # points that are measured without bounds


_SHARED = 0.6  # share of the points up to which centers are worth their queries


_SLACK = 1e-9  # share by which a bound is widened, so that rounding cannot make it wrong


class Directed:
    """Distances of the surface voxels of one class to the surface of a target.

    Args:
        target: where the class has a surface.
        class_id: the class.
        voxels: ``(rank, n)``, the surface voxels.
        distance: ``(n,)`` in mm, infinite where unknown. The unknown ones are the largest.
        beyond: in mm, what no unknown distance is less than.
        limit: in mm, what distances are to be compared with.

    Attributes:
        low, high: bounds on the two order statistics that the percentile lies between.
        distance: as given; once settled, on the right side of the limit everywhere.
    """

    def __init__(
        self,
        target: LabelSurfaces,
        class_id: int,
        voxels: np.ndarray,
        distance: np.ndarray,
        beyond: float,
        limit: np.float32,
    ) -> None:
        self.target, self.class_id, self.distance, self.limit = target, class_id, distance, limit
        self.spacing = target.spacing_mm[:, None]
        position = _PERCENTILE / 100.0 * (len(distance) - 1)
        rank = int(position)
        following = min(rank + 1, len(distance) - 1)
        self.share = position - rank
        # Counted from the top, where the unknown distances are.
        self.from_top, self.above = len(distance) - rank, len(distance) - following
        self.pending = np.flatnonzero(np.isinf(distance))
        left = len(self.pending)
        self.open = left >= self.above
        self.near = left > 0 and beyond <= limit * (1 + 1e-6)
        self.low, self.high, self.cut = beyond, np.inf, 0.0
        if left < self.from_top:
            ordered = np.partition(distance, (rank, following))
            self.low = self.cut = float(ordered[rank])
            self.high = float(ordered[following])
        if not (self.open or self.near):
            self.pending = self.pending[:0]
        self.voxels = voxels.take(self.pending, axis=1)
        self.lower, self.upper = np.full(len(self.pending), beyond), np.full(len(self.pending), np.inf)

    def percentile(self) -> float:
        """The percentile, once its two order statistics are known; as ``np.percentile`` has it, to the bit."""
        low, high, share = self.cut, self.high, self.share
        # The nearer end is the start, as numpy has it.
        return float(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))

    def approach(self) -> Asking:
        """First bounds on everything."""
        left = len(self.pending)
        if not left:
            return
        yield from self._measure(np.arange(0, left, 1 if left <= _FEW else left // _SAMPLE))
        if left > _FEW:
            sample = np.sort(self.upper[:: left // _SAMPLE])
            typical = float(sample[int(len(sample) * (1 - self.from_top / max(left, self.from_top)))])
            size = float(np.exp(np.mean(np.log(self.spacing))))
            yield from self._share(max(_FINEST * size, _CELL * typical))
        self._order()

    def settle(self, known: float) -> Asking:
        """Measure until a percentile above ``known`` is exact, and every distance on its side of the limit."""
        straddling = self._straddling(known)
        if self.centers is not None and len(straddling):
            yield from self._look_from_outside(straddling)
            straddling = self._straddling(known)
        if self.open and len(straddling) > _FEW:
            yield from self._measure(straddling[self.upper[straddling] >= max(self.cut, known)])
            self._order()
            straddling = self._straddling(known)
        while len(straddling):
            yield from self._measure(straddling)
            self._order()
            straddling = self._straddling(known)
        if self.near:
            self.distance[self.pending] = self.upper

    centers = None

    def _measure(self, chosen: np.ndarray) -> Asking:
        voxels = self.voxels.take(chosen, axis=1)
        nearest = yield voxels
        self.lower[chosen] = self.upper[chosen] = length_mm(voxels - nearest, self.spacing)

    def _share(self, side: float) -> Asking:
        self.mm = self.voxels * self.spacing
        cells = (self.mm * (1.0 / side)).astype(np.int64)
        key = _key(cells)
        everyone = np.arange(len(key))
        # Of several that write one entry the last remains; only entries just written are read.
        last = np.empty(int(key.max()) + 1, np.int64)
        last[key] = everyone
        mine = last.take(key)
        is_one = mine == everyone
        chosen = np.flatnonzero(is_one)
        if len(chosen) > _SHARED * len(key):
            return
        self.member = (np.cumsum(is_one) - 1).take(mine)
        self.centers = (cells.take(chosen, axis=1) + 0.5) * side
        STAT['cells']+=len(chosen)
        self.nearest, self.reach, lower, upper = yield from self._bounds(self.centers, self.member, self.mm)
        np.maximum(self.lower, lower, out=self.lower)
        np.minimum(self.upper, upper, out=self.upper)

    def _look_from_outside(self, chosen: np.ndarray) -> Asking:
        member = self.member.take(chosen)
        used = np.zeros(self.centers.shape[1], bool)
        used[member] = True
        member = (np.cumsum(used) - 1).take(member)
        centers, nearest, reach = self.centers[:, used], self.nearest[:, used], self.reach[used]
        # never so far that another class, set apart in the tree, is nearer
        share = np.minimum(_OUTWARD, np.maximum(0.0, 0.45 * (self.target.diagonal_mm - reach)) / (reach + 1e-9))
        *_, lower, upper = yield from self._bounds(
            centers + share * (centers - nearest), member, self.mm.take(chosen, axis=1)
        )
        STAT['pushed']+=len(reach)
        self.lower[chosen] = np.maximum(self.lower[chosen], lower)
        self.upper[chosen] = np.minimum(self.upper[chosen], upper)
        self._order()

    def _bounds(self, centers, member, mm):
        nearest = (yield centers / self.spacing) * self.spacing
        distance = _norm(centers - nearest)
        moved = _norm(mm - centers.take(member, axis=1))
        upper = _norm(mm - nearest.take(member, axis=1))
        lower = distance.take(member)
        lower -= moved
        lower -= _SLACK * self.target.diagonal_mm
        upper *= 1 + _SLACK
        return nearest, distance, lower, upper

    def _order(self) -> None:
        if not self.open:
            return
        left = len(self.upper)
        if left < self.from_top:
            self.high = float(self.upper.min())
            return
        ordered = np.partition(self.upper, (left - self.from_top, left - self.above))
        self.cut, self.high = float(ordered[left - self.from_top]), float(ordered[left - self.above])
        self.low = float(np.partition(self.lower, left - self.from_top)[left - self.from_top])

    def _straddling(self, known: float) -> np.ndarray:
        """Points whose exact distance could still change the percentile or the count.

        A percentile that is not above ``known``, a bound on HD95, does not matter.
        """
        matters = np.zeros(len(self.upper), bool)
        if self.open and self.high > known:
            matters |= (self.upper > max(self.low, known)) & (self.lower < self.high)
        if self.near:
            matters |= (self.lower <= self.limit * (1 + 1e-6)) & (self.upper > self.limit * (1 - 1e-6))
        return np.flatnonzero(matters & (self.lower < self.upper))


def _key(cells: np.ndarray) -> np.ndarray:
    """One number per column of ``cells``, the same where the columns are."""
    key = cells[0] - cells[0].min()
    for row in cells[1:]:
        key *= int(row.max()) - int(row.min()) + 1
        key += row - row.min()
    return key


def _norm(offsets: np.ndarray) -> np.ndarray:
    """Lengths of ``offsets (rank, n)``, which are lost."""
    offsets *= offsets
    return np.sqrt(offsets.sum(axis=0))

from collections import defaultdict
STAT=defaultdict(int)
