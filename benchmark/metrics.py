"""Dice, HD95 and normalised surface Dice of two label volumes, per foreground class.

The published benchmark drops an erased organ from its mean HD95, so that a stronger attack can look
milder. Here every class of every case has an answer:

=============  =====================  ====  ====  =====================
status         class is in            dice  nsd   hd95_mm
=============  =====================  ====  ====  =====================
ok             both                   measured in all three
missing        the reference only     0     0     diagonal of the volume
hallucinated   the prediction only    0     0     diagonal of the volume
absent         neither                NaN   NaN   NaN (not applicable)
=============  =====================  ====  ====  =====================

Definitions, equal to MONAI's where MONAI defines a value:

* Surface: voxels of the mask with at least one face neighbour outside the mask. Beyond the volume counts
  as background (as in MONAI, which pads before it erodes), so a mask cut by the border has a surface there.
* HD95: the larger of the two directed 95th percentiles (linear interpolation) of the distances from every
  surface voxel to the nearest surface voxel of the other mask, in millimetres.
* NSD: the share of both surfaces that lies within the tolerance of the other surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.spatial import KDTree

STATUSES = ("ok", "missing", "hallucinated", "absent")
_PERCENTILE = 95.0
_REACH = 6  # voxels per axis that the neighbourhood search may look ahead before a tree takes over


class LabelSurfaces:
    """Everything about one label volume that does not depend on what it is compared with.

    Build it once for a reference and pass it as ``cache`` to :func:`score` when many predictions are scored
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
        """Flat indices ``(n,)`` to voxel coordinates ``(n, rank)``."""
        return np.stack(np.unravel_index(flat_indices, self.padded.shape), axis=-1)

    def tree(self, class_id: int) -> tuple[np.ndarray, KDTree]:
        """Voxel coordinates of one class's surface and a search tree over them in mm, built on first use."""
        if class_id not in self._trees:
            from scipy.spatial import KDTree

            voxels = self.coordinates(self.points(class_id))
            self._trees[class_id] = (
                voxels,
                KDTree(voxels * self.spacing_mm, leafsize=32, balanced_tree=False),
            )
        return self._trees[class_id]


def score(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    num_classes: int,
    spacing_mm: Sequence[float],
    nsd_tolerance_mm: float = 1.0,
    cache: LabelSurfaces | None = None,
) -> DataFrame:
    """Compare two label volumes class by class.

    Args:
        prediction: predicted class ids.
        reference: true class ids.
        num_classes: number of classes, background included, at least 2.
        spacing_mm: voxel size per axis, in mm, one positive number per axis.
        nsd_tolerance_mm: distance that still counts as agreement of the surfaces, in mm, at least 0.
        cache: :class:`LabelSurfaces` of this very reference, to reuse across predictions.

    Shape:
        prediction, reference: ``(*spatial)`` integer, any rank.

    Returns:
        One row per foreground class with columns ``class_id dice hd95_mm nsd status``; Dice and NSD in
        0..1, HD95 in mm, ``status`` one of ``ok missing hallucinated absent`` (see the module).

    Raises:
        ValueError: on different shapes, non-integer or out-of-range labels, an unusable spacing or
            tolerance, or a cache made from another reference.

    Example:
        >>> reference = np.zeros((4, 4, 4), int)
        >>> reference[1:3, 1:3, 1:3] = 1
        >>> prediction = np.roll(reference, 1, axis=0)
        >>> table = score(prediction, reference, num_classes=2, spacing_mm=(2.0, 1.0, 1.0))
        >>> table[["dice", "hd95_mm", "nsd", "status"]].values.tolist()
        [[0.5, 2.0, 0.5, 'ok']]
    """
    from pandas import DataFrame

    if not (np.isfinite(nsd_tolerance_mm) and nsd_tolerance_mm >= 0):
        raise ValueError(
            f"nsd_tolerance_mm: expected a finite number of mm >= 0, got {nsd_tolerance_mm}; "
            "use the voxel size or the reader agreement of the dataset"
        )
    if np.shape(prediction) != np.shape(reference):
        raise ValueError(
            f"prediction: expected the reference's shape {np.shape(reference)}, got {np.shape(prediction)}; "
            "resample the prediction to the reference and drop batch and channel axes"
        )
    predicted = LabelSurfaces(prediction, num_classes=num_classes, spacing_mm=spacing_mm)
    if cache is None:
        cache = LabelSurfaces(reference, num_classes=num_classes, spacing_mm=spacing_mm)
    else:
        _check_cache(cache, reference, num_classes, predicted.spacing_mm)
    rows = [
        _score_class(predicted, cache, class_id, float(nsd_tolerance_mm))
        for class_id in range(1, num_classes)
    ]
    return DataFrame(rows)


class _ClassScore(NamedTuple):
    class_id: int
    dice: float
    hd95_mm: float
    nsd: float
    status: str


def _score_class(
    predicted: LabelSurfaces, reference: LabelSurfaces, class_id: int, tolerance: float
) -> _ClassScore:
    sizes = predicted.sizes[class_id], reference.sizes[class_id]
    if not any(sizes):
        return _ClassScore(class_id, np.nan, np.nan, np.nan, "absent")
    if not all(sizes):
        diagonal = float(np.linalg.norm(np.multiply(reference.labels.shape, reference.spacing_mm)))
        return _ClassScore(class_id, 0.0, diagonal, 0.0, "missing" if sizes[1] else "hallucinated")
    overlap = np.count_nonzero((predicted.labels == class_id) & (reference.labels == class_id))
    there = _directed(predicted, reference, class_id, tolerance)
    back = _directed(reference, predicted, class_id, tolerance)
    return _ClassScore(
        class_id,
        2.0 * overlap / sum(sizes),
        max(there.percentile, back.percentile),
        (there.within + back.within) / (there.total + back.total),
        "ok",
    )


class _Directed(NamedTuple):
    percentile: float  # mm
    within: int  # surface voxels within the tolerance
    total: int


def _directed(origin: LabelSurfaces, target: LabelSurfaces, class_id: int, tolerance: float) -> _Directed:
    """Distances from one surface to the other, as far as percentile and tolerance need them.

    Offsets are tried in order of length, so the first one that lands on the target is the exact distance.
    The few farthest points do not enter the 95th percentile and are not measured; when more than those are
    out of reach, a search tree takes over.
    """
    points = origin.points(class_id)
    total = len(points)
    # The percentile lies between this many smallest distances' last two.
    needed = min(total, int(_PERCENTILE / 100.0 * (total - 1)) + 2)
    distances = np.full(total, np.inf)
    # In single precision, as MONAI: a distance of exactly the tolerance counts whatever its last bit.
    limit = np.float32(tolerance)
    pending, where = np.arange(total), points
    for step, length in zip(*_neighbourhood(tuple(origin.spacing_mm), origin.padded.shape), strict=True):
        if not len(pending) or (np.float32(length) > limit and total - len(pending) >= needed):
            break
        hit = target.flat.take(where + step) == class_id
        if hit.any():
            distances[pending[hit]] = length
            pending, where = pending[~hit], where[~hit]
    else:
        voxels, tree = target.tree(class_id)
        start = origin.coordinates(where)
        nearest = tree.query(start * origin.spacing_mm)[1]
        distances[pending] = _length(start - voxels[nearest], origin.spacing_mm)
    within = int(np.count_nonzero(distances.astype(np.float32) <= limit))
    return _Directed(float(np.percentile(distances, _PERCENTILE)), within, total)


@lru_cache(maxsize=32)
def _neighbourhood(spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Flat-index offsets and their lengths in mm, nearest first, complete up to the last length."""
    spacing = np.asarray(spacing_mm)
    # About 60 offsets: beyond that a tree query costs less. Never farther than the margin on the finest axis.
    radius = min(2.4 * float(np.exp(np.mean(np.log(spacing)))), _REACH * float(spacing.min()))
    reach = [int(radius / size) for size in spacing]
    grid = np.meshgrid(*(np.arange(-size, size + 1) for size in reach), indexing="ij")
    offsets = np.stack([axis.reshape(-1) for axis in grid], axis=-1)
    lengths = _length(offsets, spacing)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= radius]
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    return (offsets[order] @ strides).astype(np.intp), lengths[order]


def _length(offsets: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Voxel offsets ``(n, rank)`` to mm; the only place where distances are rounded."""
    return np.sqrt(np.square(offsets * spacing_mm).sum(axis=-1))


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


def _check_cache(cache: LabelSurfaces, reference: np.ndarray, num_classes: int, spacing: np.ndarray) -> None:
    same = cache.source is reference or np.array_equal(cache.labels, reference)
    if not same or cache.num_classes != num_classes or not np.array_equal(cache.spacing_mm, spacing):
        raise ValueError(
            f"cache: expected LabelSurfaces of this reference with num_classes={num_classes} and "
            f"spacing_mm={tuple(spacing)}, got one of {'the same' if same else 'another'} volume with "
            f"num_classes={cache.num_classes} and spacing_mm={tuple(cache.spacing_mm)}; "
            "build one per reference"
        )
