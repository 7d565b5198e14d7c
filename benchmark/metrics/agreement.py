"""HD95 and NSD of two label volumes from the distances between their surfaces, and no more of them than it takes.

Only surface voxels are ever measured, so empty space costs nothing and no distance map is stored. Where surfaces nearly
agree, looking a few voxels around settles a class (:mod:`.nearby`); where they lie up to about ten voxels apart, looking
along columns does (:mod:`.columns`). The others are bounded and measured in search trees (:mod:`.directed`), the direction
that lies farther apart first: the other one only has to be shown not to lie farther.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .columns import look_along_columns
from .directed import Asking, Directed
from .nearby import Nearby
from .surfaces import LabelSurfaces


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
    # In single precision, as MONAI: a distance of exactly the tolerance counts whatever its last bit.
    limit = np.float32(tolerance_mm)
    ways = [Nearby(*way, class_ids, limit) for way in ((first, second), (second, first))]
    pairs = [[way.directed(index) for way in ways] for index in range(len(class_ids))]
    for pair in pairs:
        look_along_columns(pair)
    _ask((side, side.approach()) for pair in pairs for side in pair)
    pairs = [sorted(pair, key=lambda side: side.low + side.high, reverse=True) for pair in pairs]
    _ask((farther, farther.settle(nearer.low)) for farther, nearer in pairs)
    _ask((nearer, nearer.settle(farther.low)) for farther, nearer in pairs)
    hd95 = [max(a.percentile(b.low), b.percentile(a.low)) for a, b in pairs]
    within = [np.add.reduceat(way.within(), way.cuts[:-1], dtype=np.int64) for way in ways]
    return SurfaceAgreement(np.array(hd95), (within[0] + within[1]) / (ways[0].counts + ways[1].counts))


def _ask(conversations: Iterable[tuple[Directed, Asking]]) -> None:
    """Let all ask side by side: each tree is asked seldom, and then for what all want of it."""
    open_ = [
        (side, asking, wanted) for side, asking in conversations if (wanted := next(asking, None)) is not None
    ]
    while open_:
        still_open = []
        for target in {id(side.target): side.target for side, *_ in open_}.values():
            here = [one for one in open_ if one[0].target is target]
            sizes = [wanted.shape[1] for *_, wanted in here]
            classes = np.repeat([side.class_id for side, *_ in here], sizes)
            nearest = target.nearest(np.concatenate([wanted for *_, wanted in here], axis=1), classes)
            answers = np.split(nearest, np.cumsum(sizes)[:-1], axis=1)
            for (side, asking, _), answer in zip(here, answers, strict=True):
                try:
                    still_open.append((side, asking, asking.send(answer)))
                except StopIteration:
                    continue
        open_ = still_open
