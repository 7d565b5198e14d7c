"""How well two segmentations agree, when most voxels are background that everything agrees on."""

from __future__ import annotations

import numpy as np


def foreground_dice(first: np.ndarray, second: np.ndarray, num_classes: int) -> float:
    """Mean Dice over the foreground classes that either names, in [0, 1]; 1 where neither names any.

    A class that only one names counts 0. The share of equal voxels would be no measure: a copy that finds nothing
    agrees on all of the background.

    Example:
        >>> foreground_dice(np.array([0, 1, 1, 2]), np.array([0, 1, 0, 0]), 3)
        0.3333333333333333
    """
    counts = np.bincount((first.astype(np.int64) * num_classes + second).ravel(), minlength=num_classes**2)
    confusion = counts.reshape(num_classes, num_classes)
    sizes = (confusion.sum(0) + confusion.sum(1))[1:]
    present = sizes > 0
    if not present.any():
        return 1.0
    return float((2 * confusion.diagonal()[1:][present] / sizes[present]).mean())
