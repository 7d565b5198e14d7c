from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .directed import STAT, Asking, Directed
from .nearby import Nearby
from .surfaces import LabelSurfaces


class SurfaceAgreement(NamedTuple):
    """Per class: HD95 in mm and normalised surface Dice in 0..1."""

    hd95_mm: np.ndarray
    nsd: np.ndarray


def surface_agreement(
    first: LabelSurfaces, second: LabelSurfaces, class_ids: Sequence[int], tolerance_mm: float
) -> SurfaceAgreement:
    if not len(class_ids):
        return SurfaceAgreement(np.empty(0), np.empty(0))
    # In single precision, as MONAI: a distance of exactly the tolerance counts whatever its last bit.
    limit = np.float32(tolerance_mm)
    ways = [Nearby(o, t, class_ids, float(limit) * (1 + 1e-6)) for o, t in ((first, second), (second, first))]
    pairs = [
        tuple(way.directed(g, limit) for way in ways) for g in range(len(class_ids))
    ]
    _ask((side, side.approach()) for pair in pairs for side in pair)
    pairs = [(a, b) if a.low + a.high >= b.low + b.high else (b, a) for a, b in pairs]
    _ask((lead, lead.settle(other.low)) for lead, other in pairs)
    _ask((other, other.settle(lead.low)) for lead, other in pairs)
    hd95 = [
        max(side.percentile() for side, known in ((lead, other.low), (other, lead.low)) if side.high > known or side is lead)
        for lead, other in pairs
    ]
    within = [
        np.add.reduceat(way.distance.astype(np.float32) <= limit, way.cuts[:-1], dtype=np.int64) for way in ways
    ]
    return SurfaceAgreement(np.array(hd95), sum(within) / sum(way.counts for way in ways))


def _ask(askers: Iterable[tuple[Directed, Asking]]) -> None:
    """Let all ask side by side, with one query of each tree for all that is asked at a time."""
    open_ = []
    for side, asking in askers:
        w = next(asking, None)
        if w is not None:
            open_.append((side, asking, w))
    while open_:
        following = []
        for target in {id(s.target): s.target for s, _, _ in open_}.values():
            mine = [o for o in open_ if o[0].target is target]
            positions = np.concatenate([w for _, _, w in mine], axis=1)
            sizes = [w.shape[1] for _, _, w in mine]
            nearest = target.nearest(positions, np.repeat([s.class_id for s, _, _ in mine], sizes))
            for (side, asking, _), answer in zip(mine, np.split(nearest, np.cumsum(sizes)[:-1], axis=1), strict=True):
                STAT['queries'] += answer.shape[1]
                try:
                    following.append((side, asking, asking.send(answer)))
                except StopIteration:
                    pass
        open_ = following
