"""One class, one direction: bounds on the distances of one surface to another, tightened until they decide.

Of ``n`` distances HD95 needs two neighbouring order statistics, NSD a count, so few need to be known exactly. Where
looking around did not settle it (:mod:`.nearby`, :mod:`.columns`), points are asked for in a search tree:

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

from .surfaces import LabelSurfaces, length_mm, unravel

Asking = Generator[np.ndarray, np.ndarray, None]
"""Yields positions ``(rank, n)`` in voxels and is sent the target's nearest surface voxels ``(rank, n)``."""


_PERCENTILE = 95.0


_SAMPLE = 8  # points per class that are measured for a first idea of the distance


_CELL = 0.7  # side of a cell over a typical distance, and at least:
_FINEST = 2.5  # mean voxel sizes


_OUTWARD = 2.0  # how far a center is moved away from the surface, over its distance


_FEW = 256  # points that are measured without bounds


_MANY = 500  # points around the limit that are worth narrower cells


_SHARED = 0.6  # share of the points up to which centers are worth their queries


_SLACK = 1e-9  # share by which a bound is widened, so that rounding cannot make it wrong


def ranks(counts: np.ndarray) -> np.ndarray:
    """The rank that the percentile of so many values lies at or just after, counted from 0."""
    return (_PERCENTILE / 100.0 * (counts - 1)).astype(int)


def between(low: float, high: float, share: float) -> float:
    """So far on the way from ``low`` to ``high``, to the bit as ``np.percentile`` has it."""
    # The nearer end is the start.
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


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
        pending: which distances are unknown.
        voxels: of these alone, where the direction asks.
        open, near, asks: whether they may hold the percentile, lie within the limit, either.
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
        count = len(distance)
        position = _PERCENTILE / 100.0 * (count - 1)
        rank, following = int(position), min(int(position) + 1, count - 1)
        self.rank, self.following, self.share = rank, following, position - rank
        # Counted from the top, where the unknown distances are.
        self.from_top, self.above = count - rank, count - following
        self.surface = voxels
        self._take_stock(beyond)
        self.member: np.ndarray | None = None
        self.side = self.finest = _FINEST * target.voxel_mm

    def learn(self, found: np.ndarray, beyond: float) -> None:
        """Take in distances of the pending points, infinite where still unknown, and a new ``beyond``."""
        self.distance[self.pending] = found
        self._take_stock(beyond)

    def _take_stock(self, beyond: float) -> None:
        self.pending = np.flatnonzero(np.isinf(self.distance))
        left = len(self.pending)
        self.open = left >= self.above
        self.near = left > 0 and beyond <= self.limit * (1 + 1e-6)
        self.low, self.high, self.cut = beyond, np.inf, 0.0
        if left < self.from_top:
            ordered = np.partition(self.distance, (self.rank, self.following))
            self.low = self.cut = float(ordered[self.rank])
            self.high = float(ordered[self.following])
        self.asks = self.open or self.near
        if self.asks:
            self.voxels = self.surface.take(self.pending, axis=1)
            self.lower, self.upper = np.full(left, beyond), np.full(left, np.inf)

    def percentile(self, known: float) -> float:
        """The percentile, once it is settled, to the bit as ``np.percentile``; a number up to ``known`` if not above."""
        if self.high <= known:
            return min(self.high, known)
        return between(self.cut, self.high, self.share)

    def approach(self) -> Asking:
        """First bounds, on every point. Only those that may still matter stay."""
        if not self.asks:
            return
        left = len(self.pending)
        step = 1 if left <= _FEW else left // _SAMPLE
        yield from self._measure(np.arange(0, left, step))
        if step > 1:
            sample = np.sort(self.upper[::step])
            typical = sample[int(len(sample) * max(0.0, 1 - self.from_top / left))]
            self.side = max(self.finest, _CELL * float(typical))
            yield from self._share_centers(self.side, slice(None))
        self._order()
        if self.open and not self.near:
            self._keep(np.flatnonzero(self.upper >= self.low))

    def settle(self, known: float) -> Asking:
        """Measure until a percentile above ``known`` is exact, and every distance on its side of the limit."""
        if not self.asks:
            return
        straddling = self._straddling(known)
        # The percentile says how wide the first cells are. A limit may lie anywhere.
        while self.near and len(straddling) > _MANY and self.side > 1.5 * self.finest:
            self.side = max(self.finest, self.side / 3)
            yield from self._share_centers(self.side, straddling)
            self._order()
            straddling = self._straddling(known)
        if self.member is not None and len(straddling):
            straddling = yield from self._look_from_outside(straddling, self.member[straddling], known)
        if self.open and len(straddling) > _FEW // 4:
            highest = straddling[self.upper[straddling] >= self.cut]
            if len(highest):
                straddling = yield from self._measure_and_order(highest, known)
        while len(straddling):
            straddling = yield from self._measure_and_order(straddling, known)
        if self.near:
            self.distance[self.pending] = self.upper

    def _measure(self, chosen: np.ndarray) -> Asking:
        voxels = self.voxels.take(chosen, axis=1)
        nearest = yield voxels
        self.lower[chosen] = self.upper[chosen] = length_mm(voxels - nearest, self.spacing)

    def _measure_and_order(
        self, chosen: np.ndarray, known: float
    ) -> Generator[np.ndarray, np.ndarray, np.ndarray]:
        yield from self._measure(chosen)
        self._order()
        return self._straddling(known)

    def _keep(self, kept: np.ndarray) -> None:
        """Forget the points that cannot be above the percentile."""
        self.voxels, self.lower, self.upper = (
            self.voxels.take(kept, axis=1),
            self.lower[kept],
            self.upper[kept],
        )
        if self.member is not None:
            self.member = self.member[kept]

    def _share_centers(self, side: float, chosen: np.ndarray | slice) -> Asking:
        """Bound the chosen points by the centers of cells of ``side`` mm, unless there are too many cells."""
        positions = self.voxels[:, chosen] * self.spacing
        cells = (positions * (1.0 / side)).astype(np.int64)
        mine, occupied = _occupied(cells)
        if occupied.shape[1] > _SHARED * len(mine):
            return
        # Inside the volume, where the tree finds no other class.
        last = self.spacing * (np.array(self.target.labels.shape)[:, None] - 1)
        self.centers = np.minimum((occupied + 0.5) * side, last)
        self.member = np.zeros(len(self.upper), np.int64)
        self.member[chosen] = mine
        self.nearest, self.lower[chosen], self.upper[chosen] = yield from self._bound(
            self.centers, mine, positions, self.lower[chosen], self.upper[chosen]
        )

    def _look_from_outside(
        self, chosen: np.ndarray, member: np.ndarray, known: float
    ) -> Generator[np.ndarray, np.ndarray, np.ndarray]:
        """Bound the chosen points by the centers of their cells ``member``, moved away from the surface."""
        used = np.zeros(self.centers.shape[1], bool)
        used[member] = True
        member = (np.cumsum(used) - 1).take(member)
        centers, away = self.centers[:, used], (self.centers - self.nearest)[:, used]
        distance = _norm(away.copy())
        # Never so far that another class, which the tree has two diagonals away, is nearer.
        room = np.maximum(0.45 * (self.target.diagonal_mm - distance), 0.0)
        away *= np.minimum(_OUTWARD, room / np.maximum(distance, 1e-9 * self.target.diagonal_mm))
        _, self.lower[chosen], self.upper[chosen] = yield from self._bound(
            centers + away,
            member,
            self.voxels.take(chosen, axis=1) * self.spacing,
            self.lower[chosen],
            self.upper[chosen],
        )
        self._order()
        return self._straddling(known)

    def _bound(
        self,
        centers: np.ndarray,
        member: np.ndarray,
        positions: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
    ) -> Generator[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What the target nearest to ``centers (rank, cells)``, in mm, says of points in these cells.

        Returns:
            The targets, and ``lower`` and ``upper`` where they are no better.
        """
        nearest = (yield centers / self.spacing) * self.spacing
        least = _norm(centers - nearest).take(member)
        least -= _norm(positions - centers.take(member, axis=1))
        least -= _SLACK * self.target.diagonal_mm
        most = _norm(positions - nearest.take(member, axis=1))
        most += _SLACK * self.target.diagonal_mm
        return nearest, np.maximum(lower, least), np.minimum(upper, most)

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
        inexact = self.lower < self.upper
        matters = np.zeros(len(inexact), bool)
        if self.open and self.high > known:
            around = inexact & (self.upper > self.low) & (self.lower < self.high)
            above = around & (self.upper > known)
            # What lies below ``known`` only matters if the percentile is above.
            matters = above if above.any() else around
        if self.near:
            at_limit = (self.lower <= self.limit * (1 + 1e-6)) & (self.upper > self.limit * (1 - 1e-6))
            matters = matters | (inexact & at_limit)
        return np.flatnonzero(matters)


def _occupied(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``cells (rank, n)``, which of the distinct ones each is, and those ``(rank, distinct)``."""
    lowest = cells.min(axis=1)
    extent = cells.max(axis=1) - lowest + 1
    key = cells[0] - lowest[0]
    for row, least, size in zip(cells[1:], lowest[1:], extent[1:], strict=True):
        key *= size
        key += row
        key -= least
    taken = np.zeros(int(np.prod(extent)), bool)
    taken[key] = True
    distinct = np.flatnonzero(taken)
    index = np.empty(len(taken), np.int64)
    index[distinct] = np.arange(len(distinct))
    return index.take(key), unravel(distinct, tuple(extent)) + lowest[:, None]


def _norm(offsets: np.ndarray) -> np.ndarray:
    """Lengths of ``offsets (rank, n)``, which are lost."""
    offsets *= offsets
    return np.sqrt(offsets.sum(axis=0))
