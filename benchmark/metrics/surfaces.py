"""Distances between the surfaces of one class in two label volumes: what HD95 and NSD need of them, and no more.

Only surface voxels are ever measured, so empty space costs nothing and no distance map is stored. Of their
distances HD95 needs two neighbouring order statistics and NSD a count, so most need not be known exactly:

1. Offsets of a voxel or two, nearest first, settle the points where both surfaces nearly agree.
2. Of what is left, one point per coarse cell is measured in a search tree. The distance to a surface changes
   no faster than the point moves, so every other point of the cell gets a lower and an upper bound.
3. Only cells whose bounds straddle the percentile or the tolerance are split, down to single points.

Bounds decide which points are measured, never what is returned: the results are those of measuring all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .label_volumes import check_labels, check_spacing, surface_mask

if TYPE_CHECKING:
    from scipy.spatial import KDTree


_PERCENTILE = 95.0


_REACH = 6  # voxels per axis that the neighbourhood search may look ahead before the tree takes over


_CELLS = ((24.0, 20_000), (8.0, 20_000), (5.0, 1), (2.5, 1), (0.0, 1), (0.0, 1))
"""Sides of the cells that share a measured point, in mean voxel sizes, and from how many open points they pay.

Twice down to single points: what lies below ``known`` only matters if the percentile is above.
"""


_SLACK = 1e-9  # share by which a bound is widened, so that rounding cannot make it wrong


class LabelSurfaces:
    """Everything about one label volume that does not depend on what it is compared with.

    Build it once for a reference and pass it as ``cache`` to
    :func:`~robustvox.benchmark.metrics.scores.score` when many predictions are scored
    against that reference. The results are the same bits with and without it. The array must not be
    modified in between.

    Args:
        labels: class ids, 0 is background.
        num_classes: number of classes, background included.
        spacing_mm: voxel size per axis, in mm.

    Shape:
        labels: ``(*spatial)`` integer.

    Raises:
        ValueError: on non-integer or out-of-range labels, or an unusable spacing.

    Example:
        >>> from robustvox.benchmark import score
        >>> reference = np.zeros((6, 6, 6), np.uint8)
        >>> reference[1:4, 1:4, 1:4] = 1
        >>> cache = LabelSurfaces(reference, num_classes=2, spacing_mm=(1, 1, 1))
        >>> score(reference, reference, num_classes=2, spacing_mm=(1, 1, 1), cache=cache).dice.tolist()
        [1.0]
    """

    def __init__(self, labels: np.ndarray, *, num_classes: int, spacing_mm: Sequence[float]) -> None:
        self.source = labels
        self.num_classes = num_classes
        self.labels = check_labels(labels, "labels", num_classes)
        self.spacing_mm = check_spacing(spacing_mm, self.labels.ndim)
        flat_labels = self.labels.reshape(-1)
        self.inside = np.flatnonzero(flat_labels != 0)  # ten times faster on booleans
        self.inside_classes = flat_labels[self.inside]
        self.sizes = np.bincount(self.inside_classes, minlength=num_classes)
        span = (int(self.inside[0]), int(self.inside[-1]) + 1) if len(self.inside) else (0, 0)
        on_surface = surface_mask(self.labels, *span).reshape(-1)[self.inside]
        classes = self.inside_classes[on_surface]
        # By class, then by position.
        order = np.argsort(classes, kind="stable")
        self.voxels = np.stack(np.unravel_index(self.inside[on_surface][order], self.labels.shape))
        self.classes = classes[order]
        self.cuts = np.searchsorted(self.classes, np.arange(num_classes + 1))
        # One padded volume serves all classes: the class id on surface voxels, 0 elsewhere. The margin
        # lets the neighbourhood search add an offset to a flat index without asking where the border is.
        self.shape = tuple(size + 2 * _REACH for size in self.labels.shape)
        self.points = np.asarray(np.ravel_multi_index(tuple(self.voxels + _REACH), self.shape))
        self.flat = np.zeros(int(np.prod(self.shape)), self.labels.dtype)
        self.flat[self.points] = self.classes
        self._tree: KDTree | None = None

    def overlaps(self, other: LabelSurfaces) -> np.ndarray:
        """Voxels per class id that both volumes give to that class; meaningless for the background."""
        both = other.labels.reshape(-1)[self.inside] == self.inside_classes
        return np.asarray(np.bincount(self.inside_classes[both], minlength=self.num_classes))

    def nearest(self, voxels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Surface voxels ``(rank, n)`` nearest to ``voxels (rank, n)`` among those of each one's class."""
        if self._tree is None:
            from scipy.spatial import KDTree

            # Quick to build, and quicker than tight nodes for the far points that attacks leave behind.
            self._tree = KDTree(
                self._apart(self.voxels, self.classes), leafsize=64, compact_nodes=False, balanced_tree=False
            )
        _, nearest = self._tree.query(self._apart(voxels, classes))
        return self.voxels.take(np.asarray(nearest), axis=1)

    def _apart(self, voxels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Positions ``(n, rank)`` in mm, every class moved so far that no other is ever nearer."""
        positions = voxels.T * self.spacing_mm
        diagonal = float(np.linalg.norm(np.multiply(self.labels.shape, self.spacing_mm)))
        positions[:, 0] += classes * (2.0 * diagonal)
        return positions


class SurfaceAgreement(NamedTuple):
    """Per class: HD95 in mm and normalised surface Dice in 0..1."""

    hd95_mm: np.ndarray
    nsd: np.ndarray


def surface_agreement(
    first: LabelSurfaces, second: LabelSurfaces, class_ids: Sequence[int], tolerance_mm: float
) -> SurfaceAgreement:
    """Compare the surfaces of classes that both volumes have; the order of the volumes does not matter.

    Args:
        first, second: volumes of one shape and spacing.
        class_ids: ascending classes with at least one voxel in each.
        tolerance_mm: distance that still counts as agreement for NSD.

    Returns:
        HD95, the larger directed 95th percentile, and NSD, one of each per class.

    Example:
        >>> line = np.zeros((3, 9), np.uint8)
        >>> line[1, 1:4] = 1
        >>> a, b = (LabelSurfaces(x, num_classes=2, spacing_mm=(1, 1)) for x in (line, np.roll(line, 4, 1)))
        >>> hd95, nsd = surface_agreement(a, b, [1], 2.0)
        >>> hd95.tolist(), nsd.tolist()
        ([3.9], [0.3333333333333333])
    """
    if not len(class_ids):
        return SurfaceAgreement(np.empty(0), np.empty(0))
    ways = [
        _Directed(origin, target, class_ids, tolerance_mm)
        for origin, target in ((first, second), (second, first))
    ]
    size = float(np.exp(np.mean(np.log(first.spacing_mm))))
    for side, least in _CELLS:
        for way in ways:
            if len(way.pending) >= least:
                way.refine(side * size, np.maximum(ways[0].lowest, ways[1].lowest))
    known = np.maximum(ways[0].lowest, ways[1].lowest)
    hd95 = np.maximum(ways[0].percentiles(known), ways[1].percentiles(known))
    total = ways[0].counts + ways[1].counts
    return SurfaceAgreement(hd95, (ways[0].within() + ways[1].within()) / total)


class _Directed:
    """Bounds, in mm, on the distance of every surface voxel of ``origin`` to the surface of ``target``.

    Attributes:
        counts: surface voxels per class.
        lowest, highest: bounds per class on the order statistics that the percentile lies between.
    """

    def __init__(
        self,
        origin: LabelSurfaces,
        target: LabelSurfaces,
        class_ids: Sequence[int],
        tolerance_mm: float,
    ) -> None:
        self.origin, self.target = origin, target
        spans = [slice(*origin.cuts[[class_id, class_id + 1]]) for class_id in class_ids]
        chosen = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        self.points, self.voxels, self.classes = (
            origin.points[chosen],
            origin.voxels.take(chosen, axis=1),
            origin.classes[chosen],
        )
        self.counts = np.array([span.stop - span.start for span in spans])
        self.cuts = np.concatenate([[0], np.cumsum(self.counts)])
        self.group = np.repeat(np.arange(len(spans)), self.counts)
        self.ranks = (_PERCENTILE / 100.0 * (self.counts - 1)).astype(int)
        # In single precision, as MONAI: a distance of exactly the tolerance counts whatever its last bit.
        self.limit = np.float32(tolerance_mm)
        self.upper = np.full(len(chosen), np.inf)
        self.pending = np.arange(len(chosen))
        reached = self._search_nearby()
        self.lower = self.upper.copy()
        self.lower[self.pending] = reached
        self.lowest, self.highest = np.empty((2, len(spans)))
        self._order(range(len(spans)))

    def percentiles(self, known: np.ndarray) -> np.ndarray:
        """The percentile per class, or some number up to ``known`` where it is not above that."""
        found = np.minimum(self.highest, known)
        for g in np.flatnonzero(self.highest >= known):
            found[g] = _percentile(self.upper[self.cuts[g] : self.cuts[g + 1]])
        return found

    def within(self) -> np.ndarray:
        """Surface voxels within the tolerance, per class."""
        near = self.upper.astype(np.float32) <= self.limit
        return np.add.reduceat(near, self.cuts[:-1], dtype=np.int64)

    def _order(self, groups: Iterable[int]) -> None:
        """Bring ``lowest`` and ``highest`` up to date."""
        for g in groups:
            span = slice(self.cuts[g], self.cuts[g + 1])
            rank = self.ranks[g]
            following = min(rank + 1, self.counts[g] - 1)
            self.highest[g] = np.partition(self.upper[span], following)[following]
            self.lowest[g] = np.partition(self.lower[span], rank)[rank]

    def _search_nearby(self) -> float:
        """Try offsets in order of length: the first that lands on the target is the exact distance.

        Returns:
            A distance that the points still pending are not nearer than.
        """
        where, wanted, reached = self.points, self.classes, 0.0
        for steps, length in _neighbourhood(tuple(self.origin.spacing_mm), self.origin.shape):
            before = len(where)
            for step in steps:
                missed = self.target.flat[where + step] != wanted
                if not missed.all():
                    self.upper[self.pending[~missed]] = length
                    self.pending, where, wanted = self.pending[missed], where[missed], wanted[missed]
            reached = length
            # A point in the tree costs about as much as twenty offsets.
            if before - len(where) <= 0.05 * len(steps) * before:
                break
        return reached

    def refine(self, cell_mm: float, known: np.ndarray) -> None:
        """Tighten the bounds of what is unsettled by measuring one point per cell, or all where a cell is 0."""
        unsettled = self._unsettled(known)
        if not len(unsettled):
            return
        voxels, classes = self.voxels.take(unsettled, axis=1), self.classes[unsettled]
        spacing = self.origin.spacing_mm[:, None]
        if cell_mm:
            chosen, member = _one_per_cell(voxels, self.group[unsettled], cell_mm / spacing)
            if len(chosen) > 0.5 * len(unsettled):
                return
            centers = voxels.take(chosen, axis=1)
            nearest = self.target.nearest(centers, classes[chosen])
            distance = _length(centers - nearest, spacing)
            moved = _length(voxels - centers.take(member, axis=1), spacing)
            reached = _length(voxels - nearest.take(member, axis=1), spacing)
            least = (distance[member] - moved) - _SLACK * (distance[member] + moved)
            self.lower[unsettled] = np.maximum(self.lower[unsettled], least)
            self.upper[unsettled] = np.minimum(self.upper[unsettled], reached)
            exact = unsettled[chosen]
        else:
            distance = _length(voxels - self.target.nearest(voxels, classes), spacing)
            exact = unsettled
        self.lower[exact] = self.upper[exact] = distance
        self._order(np.flatnonzero(np.bincount(self.group[unsettled])))

    def _unsettled(self, known: np.ndarray) -> np.ndarray:
        """Points whose exact distance could still change the percentile or the count.

        A percentile that is not above ``known``, a bound on HD95, does not matter.
        """
        group, lower, upper = (of[self.pending] for of in (self.group, self.lower, self.upper))
        inexact = lower < upper
        near_limit = (lower <= self.limit * (1 + 1e-6)) & (upper > self.limit * (1 - 1e-6))
        low, high, least = self.lowest[group], self.highest[group], known[group]
        around = (upper > low) & (lower < high) & (high > least)
        above = around & (upper > least) & inexact
        has_above = np.bincount(group[above], minlength=len(known)) > 0
        wanted = inexact & (near_limit | above | (around & ~has_above[group]))
        # Bounds only tighten, so what is out stays out.
        unsettled = self.pending[wanted]
        self.pending = self.pending[inexact & (near_limit | around)]
        return unsettled


def _percentile(values: np.ndarray) -> float:
    """``np.percentile(values, 95)`` to the bit, without what it does for other arguments."""
    position = _PERCENTILE / 100.0 * (len(values) - 1)
    rank = int(position)
    ordered = np.partition(values, (rank, min(rank + 1, len(values) - 1)))
    low, high, share = ordered[rank], ordered[min(rank + 1, len(values) - 1)], position - rank
    # The nearer end is the start, as numpy has it.
    return float(low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share))


def _one_per_cell(voxels: np.ndarray, group: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of a voxel, central if there is one, of every occupied cell, and each voxel's position in that list."""
    position = voxels * (1.0 / side)
    cells = position.astype(np.int32)
    off_center = np.square(position - cells - 0.5).sum(axis=0)
    extents = tuple(cells.max(axis=1) + 1)
    keys = np.asarray(np.ravel_multi_index((group, *cells), (int(group.max()) + 1, *extents)))
    everyone = np.arange(len(keys))
    # Of several that write one entry the last remains; only entries just written are read.
    representative = np.empty(int(keys.max()) + 1, np.int64)
    representative[keys] = everyone
    for ring in (0.2, 0.07):
        central = np.flatnonzero(off_center < ring)
        representative[keys[central]] = central
    mine = representative[keys]
    is_one = mine == everyone
    return np.flatnonzero(is_one), (np.cumsum(is_one) - 1)[mine]


@lru_cache(maxsize=32)
def _neighbourhood(
    spacing_mm: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Flat-index offsets in groups of one length in mm, nearest first, complete up to the last length."""
    spacing = np.asarray(spacing_mm)
    # About 60 offsets. Never farther than the margin on the finest axis.
    radius = min(2.4 * float(np.exp(np.mean(np.log(spacing)))), _REACH * float(spacing.min()))
    reach = [int(radius / size) for size in spacing]
    grid = np.meshgrid(*(np.arange(-size, size + 1) for size in reach), indexing="ij")
    offsets = np.stack([axis.reshape(-1) for axis in grid])
    lengths = _length(offsets, spacing[:, None])
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    return tuple(
        (tuple(int(step) for step in strides @ offsets[:, lengths == length]), float(length))
        for length in np.unique(lengths[lengths <= radius])
    )


def _length(offsets: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Voxel offsets ``(rank, n)`` to mm; the only place where distances are rounded."""
    return np.sqrt(np.square(offsets * spacing_mm).sum(axis=0))
