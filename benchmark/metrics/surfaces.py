"""The surfaces of all classes of a label volume, and for any position the nearest voxel of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .label_volumes import check_labels, check_spacing, surface_mask

if TYPE_CHECKING:
    from scipy.spatial import KDTree


MARGIN = 6  # voxels around the padded volume, so that a search nearby need not ask where the border is


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
        self.voxel_mm = float(np.exp(np.mean(np.log(self.spacing_mm))))
        self.diagonal_mm = float(np.linalg.norm(np.multiply(self.labels.shape, self.spacing_mm)))
        flat_labels = self.labels.reshape(-1)
        self.inside = np.flatnonzero(flat_labels != 0)  # ten times faster on booleans
        # Here and below: taking by index is several times faster than by a mask.
        self.inside_classes = flat_labels.take(self.inside)
        self.sizes = np.bincount(self.inside_classes, minlength=num_classes)
        span = (int(self.inside[0]), int(self.inside[-1]) + 1) if len(self.inside) else (0, 0)
        on_surface = np.flatnonzero(surface_mask(self.labels, *span).reshape(-1).take(self.inside))
        classes = self.inside_classes.take(on_surface)
        # By class, then by position.
        order = np.argsort(classes, kind="stable")
        self.voxels = unravel(self.inside.take(on_surface.take(order)), self.labels.shape)
        self.classes = classes.take(order)
        self.cuts = np.searchsorted(self.classes, np.arange(num_classes + 1))
        # One padded volume serves all classes: the class id on surface voxels, 0 elsewhere. The margin
        # lets the neighbourhood search add an offset to a flat index without asking where the border is.
        self.shape = tuple(size + 2 * MARGIN for size in self.labels.shape)
        strides = np.cumprod([1, *self.shape[:0:-1]])[::-1]
        self.points = strides @ self.voxels + MARGIN * int(strides.sum())
        self.flat = np.zeros(int(np.prod(self.shape)), self.labels.dtype)
        self.flat[self.points] = self.classes
        self._tree: KDTree | None = None

    def surface(self, class_id: int) -> np.ndarray:
        """Surface voxels ``(rank, n)`` of one class."""
        return self.voxels[:, self.cuts[class_id] : self.cuts[class_id + 1]]

    def overlaps(self, other: LabelSurfaces) -> np.ndarray:
        """Voxels per class id that both volumes give to that class; meaningless for the background."""
        both = other.labels.reshape(-1).take(self.inside) == self.inside_classes
        return np.bincount(self.inside_classes * both, minlength=self.num_classes)

    def nearest(self, voxels: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Surface voxels ``(rank, n)`` nearest to positions in voxels, whole or not, each among those of its class."""
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
        positions[:, 0] += classes * (2.0 * self.diagonal_mm)
        return positions


def unravel(flat: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Flat indices to ``(rank, n)``; several times faster than ``np.unravel_index``."""
    voxels = np.empty((len(shape), len(flat)), np.int64)
    for axis in range(len(shape) - 1, 0, -1):
        rest = flat // shape[axis]
        voxels[axis] = flat - rest * shape[axis]
        flat = rest
    voxels[0] = flat
    return voxels


def length_mm(offsets: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Voxel offsets ``(rank, n)`` to mm; the only place where distances are rounded."""
    return np.sqrt(np.square(offsets * spacing_mm).sum(axis=0))
