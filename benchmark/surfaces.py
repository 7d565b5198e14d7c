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

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial import KDTree

_PERCENTILE = 95.0
_REACH = 6  # voxels per axis that the neighbourhood search may look ahead before the tree takes over
_CELLS = (16.0, 6.0, 2.5)  # sides of the cells that share a measured point, in mean voxel sizes
_SLACK = 1e-9  # share by which a bound is widened, so that rounding cannot make it wrong


class LabelSurfaces:
    """Everything about one label volume that does not depend on what it is compared with.

    Build it once for a reference and pass it as ``cache`` to
    :func:`~robustvox.benchmark.metrics.score` when many predictions are scored
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
        self.labels = _check_labels(labels, "labels", num_classes)
        self.spacing_mm = _check_spacing(spacing_mm, self.labels.ndim)
        self.sizes = [np.count_nonzero(self.labels == class_id) for class_id in range(num_classes)]
        # One padded volume serves all classes: the class id on surface voxels, 0 elsewhere. The margin
        # lets the neighbourhood search add an offset to a flat index without asking where the border is.
        self.padded = np.pad(_surface_mask(self.labels) * self.labels, _REACH)
        self.flat = self.padded.reshape(-1)
        found = np.flatnonzero(self.flat != 0)
        classes = self.flat[found]
        order = np.argsort(classes, kind="stable")
        cuts = np.searchsorted(classes[order], np.arange(1, num_classes))
        self._points = np.split(found[order], cuts)
        self._trees: dict[int, tuple[np.ndarray, KDTree]] = {}

    def points(self, class_id: int) -> np.ndarray:
        """Flat indices into ``padded`` of the surface voxels of one class, ascending."""
        return self._points[class_id]

    def coordinates(self, flat_indices: np.ndarray) -> np.ndarray:
        """Flat indices ``(n,)`` to voxel coordinates ``(rank, n)``."""
        return np.stack(np.unravel_index(flat_indices, self.padded.shape))

    def tree(self, class_id: int) -> tuple[np.ndarray, KDTree]:
        """Voxel coordinates of one class's surface and a search tree over them in mm, built on first use."""
        if class_id not in self._trees:
            from scipy.spatial import KDTree

            voxels = self.coordinates(self.points(class_id))
            self._trees[class_id] = (
                voxels,
                KDTree(voxels.T * self.spacing_mm, leafsize=32, balanced_tree=False),
            )
        return self._trees[class_id]


class SurfaceAgreement(NamedTuple):
    """HD95 in mm and normalised surface Dice in 0..1 of one class."""

    hd95_mm: float
    nsd: float


def surface_agreement(
    first: LabelSurfaces, second: LabelSurfaces, class_id: int, tolerance_mm: float
) -> SurfaceAgreement:
    """Compare the surfaces of a class that both volumes have; the order of the volumes does not matter.

    Args:
        first, second: volumes of one shape and spacing.
        class_id: a class with at least one voxel in each.
        tolerance_mm: distance that still counts as agreement for NSD.

    Returns:
        HD95, the larger directed 95th percentile, and NSD.

    Example:
        >>> line = np.zeros((3, 9), np.uint8)
        >>> line[1, 1:4] = 1
        >>> a, b = (LabelSurfaces(x, num_classes=2, spacing_mm=(1, 1)) for x in (line, np.roll(line, 4, 1)))
        >>> surface_agreement(a, b, 1, 2.0)
        SurfaceAgreement(hd95_mm=3.9, nsd=0.3333333333333333)
    """
    ways = [
        _Directed(origin, target, class_id, tolerance_mm)
        for origin, target in ((first, second), (second, first))
    ]
    # The larger percentile is the answer, so the other direction only has to be shown to be smaller.
    ways.sort(key=lambda way: len(way.pending) / len(way.points), reverse=True)
    hd95 = -np.inf
    for way in ways:
        way.refine(hd95)
        hd95 = max(hd95, way.percentile)
    return SurfaceAgreement(hd95, sum(way.within for way in ways) / sum(len(way.points) for way in ways))


class _Directed:
    """Bounds, in mm, on the distance of every surface voxel of ``origin`` to the surface of ``target``."""

    def __init__(
        self, origin: LabelSurfaces, target: LabelSurfaces, class_id: int, tolerance_mm: float
    ) -> None:
        self.origin, self.target, self.class_id = origin, target, class_id
        self.points = origin.points(class_id)
        # In single precision, as MONAI: a distance of exactly the tolerance counts whatever its last bit.
        self.limit = np.float32(tolerance_mm)
        self.rank = int(_PERCENTILE / 100.0 * (len(self.points) - 1))
        self.upper = np.full(len(self.points), np.inf)
        self.lower = np.zeros(len(self.points))
        self.pending = np.arange(len(self.points))
        self._search_nearby()

    @property
    def percentile(self) -> float:
        return float(np.percentile(self.upper, _PERCENTILE))

    @property
    def within(self) -> int:
        """Surface voxels within the tolerance."""
        return int(np.count_nonzero(self.upper.astype(np.float32) <= self.limit))

    def _search_nearby(self) -> None:
        """Try offsets in order of length: the first that lands on the target is the exact distance."""
        where, reached = self.points, 0.0
        for steps, length in _neighbourhood(tuple(self.origin.spacing_mm), self.origin.padded.shape):
            before = len(where)
            for step in steps:
                hit = self.target.flat.take(where + step) == self.class_id
                if hit.any():
                    self.upper[self.pending[hit]] = length
                    self.pending, where = self.pending[~hit], where[~hit]
            reached = length
            # A point in the tree costs about as much as twenty offsets.
            if before - len(where) <= 0.05 * len(steps) * before:
                break
        self.lower[:] = self.upper
        self.lower[self.pending] = reached

    def refine(self, beaten: float) -> None:
        """Tighten the bounds until ``percentile`` and ``within`` are exact.

        A percentile that is not above ``beaten`` may stay inexact, but not above ``beaten`` either.
        """
        spacing = self.origin.spacing_mm[:, None]
        size = float(np.exp(np.mean(np.log(spacing))))
        # Twice down to single points: what lies below ``beaten`` only matters if the percentile is above.
        for cell in (*(side * size for side in _CELLS), 0.0, 0.0):
            unsettled = self._unsettled(beaten)
            if not len(unsettled):
                return
            voxels = self.origin.coordinates(self.points[unsettled])
            if not cell:
                self.upper[unsettled] = self.lower[unsettled] = self._measure(voxels)[0]
                continue
            chosen, member = _one_per_cell(voxels, cell / spacing)
            if len(chosen) > 0.5 * len(unsettled):
                continue
            distance, nearest = self._measure(voxels[:, chosen])
            moved = _length(voxels - voxels[:, chosen][:, member], spacing)
            reached = _length(voxels - nearest[:, member], spacing)
            known = (distance[member] - moved) - _SLACK * (distance[member] + moved)
            self.lower[unsettled] = np.maximum(self.lower[unsettled], known)
            self.upper[unsettled] = np.minimum(self.upper[unsettled], reached)
            exact = unsettled[chosen]
            self.lower[exact] = self.upper[exact] = distance

    def _unsettled(self, beaten: float) -> np.ndarray:
        """Points whose exact distance could still change the percentile or the count."""
        inexact = self.lower < self.upper
        wanted = (self.lower <= self.limit * (1 + 1e-6)) & (self.upper > self.limit * (1 - 1e-6))
        next_rank = min(self.rank + 1, len(self.points) - 1)
        highest = np.partition(self.upper, next_rank)[next_rank]
        if highest > beaten:
            lowest = np.partition(self.lower, self.rank)[self.rank]
            around = inexact & (self.upper > lowest) & (self.lower < highest)
            above = around & (self.upper > beaten)
            wanted |= above if above.any() else around
        return np.flatnonzero(inexact & wanted)

    def _measure(self, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact distances of voxels ``(rank, n)`` in mm and the surface voxels they lead to."""
        surface, tree = self.target.tree(self.class_id)
        spacing = self.origin.spacing_mm[:, None]
        nearest = surface[:, tree.query((voxels * spacing).T)[1]]
        return _length(voxels - nearest, spacing), nearest


def _one_per_cell(voxels: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the most central voxel of every occupied cell, and each voxel's position in that list."""
    position = voxels * (1.0 / side)
    cells = position.astype(np.int64)
    off_center = np.square(position - cells - 0.5).sum(axis=0) / len(voxels)  # below 1
    keys = np.asarray(np.ravel_multi_index(tuple(cells), tuple(cells.max(axis=1) + 1)))
    order = np.argsort(keys + off_center)
    first = np.diff(keys[order], prepend=-1) != 0
    member = np.empty(len(keys), np.int64)
    member[order] = np.cumsum(first) - 1
    return order[first], member


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


def _surface_mask(labels: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour of another class, or at the border: every class's surface in one pass."""
    surface = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        edge = np.moveaxis(surface, axis, 0)
        differs = along[1:] != along[:-1]
        edge[1:] |= differs
        edge[:-1] |= differs
        edge[0] = True
        edge[-1] = True
    return surface


def _check_labels(volume: np.ndarray, name: str, num_classes: int) -> np.ndarray:
    if not isinstance(num_classes, int | np.integer) or num_classes < 2:
        raise ValueError(f"num_classes: expected an integer >= 2, background included, got {num_classes!r}")
    labels = np.asarray(volume)
    if labels.dtype.kind not in "biu":
        raise ValueError(
            f"{name}: expected integer class ids, got dtype {labels.dtype}; "
            "take the argmax over the class axis"
        )
    if labels.ndim == 0 or labels.size == 0:
        raise ValueError(f"{name}: expected a volume (*spatial) with voxels, got shape {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name}: expected class ids in 0..{num_classes - 1}, got {low}..{high}; "
            "remap the labels or raise num_classes"
        )
    # The narrowest type: comparing bytes is several times faster than comparing int64.
    return np.ascontiguousarray(labels, dtype=np.min_scalar_type(num_classes - 1))


def _check_spacing(spacing_mm: Sequence[float], rank: int) -> np.ndarray:
    spacing = np.atleast_1d(np.asarray(spacing_mm, dtype=np.float64))
    if spacing.shape != (rank,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(
            f"spacing_mm: expected {rank} positive numbers of mm, one per axis, got {spacing_mm!r}; "
            "use the voxel size from the image header"
        )
    return spacing
