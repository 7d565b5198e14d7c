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
  surface voxel to the nearest surface voxel of the other mask, in millimetres. The package
  ``surface-distance`` measures between voxel corners that the surface passes, weighted by area. Its values are
  smaller: by 0.3 mm on average at 1 mm spacing and by up to 0.8 mm for a small organ, which is how far it lies from
  MONAI too (``tests/performance/surface_definitions.py``); NSD differs by up to 0.16.
* NSD: the share of both surfaces that lies within the tolerance of the other surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .agreement import surface_agreement
from .surfaces import LabelSurfaces

if TYPE_CHECKING:
    from pandas import DataFrame


__all__ = ["STATUSES", "LabelSurfaces", "score"]


STATUSES = ("ok", "missing", "hallucinated", "absent")


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
    return DataFrame(_score_classes(predicted, cache, float(nsd_tolerance_mm)))


class _ClassScore(NamedTuple):
    class_id: int
    dice: float
    hd95_mm: float
    nsd: float
    status: str


def _score_classes(predicted: LabelSurfaces, reference: LabelSurfaces, tolerance: float) -> list[_ClassScore]:
    overlaps = predicted.overlaps(reference)
    total = predicted.sizes + reference.sizes
    in_both = [c for c in range(1, predicted.num_classes) if predicted.sizes[c] and reference.sizes[c]]
    surfaces = surface_agreement(predicted, reference, in_both, tolerance)
    measured = {
        c: _ClassScore(c, 2.0 * float(overlaps[c]) / float(total[c]), float(hd95), float(nsd), "ok")
        for c, hd95, nsd in zip(in_both, *surfaces, strict=True)
    }
    diagonal = float(np.linalg.norm(np.multiply(reference.labels.shape, reference.spacing_mm)))

    def unmeasured(class_id: int) -> _ClassScore:
        if not total[class_id]:
            return _ClassScore(class_id, np.nan, np.nan, np.nan, "absent")
        status = "missing" if reference.sizes[class_id] else "hallucinated"
        return _ClassScore(class_id, 0.0, diagonal, 0.0, status)

    return [measured.get(c) or unmeasured(c) for c in range(1, predicted.num_classes)]


def _check_cache(cache: LabelSurfaces, reference: np.ndarray, num_classes: int, spacing: np.ndarray) -> None:
    same = cache.source is reference or np.array_equal(cache.labels, reference)
    if not same or cache.num_classes != num_classes or not np.array_equal(cache.spacing_mm, spacing):
        raise ValueError(
            f"cache: expected LabelSurfaces of this reference with num_classes={num_classes} and "
            f"spacing_mm={tuple(spacing)}, got one of {'the same' if same else 'another'} volume with "
            f"num_classes={cache.num_classes} and spacing_mm={tuple(cache.spacing_mm)}; "
            "build one per reference"
        )
