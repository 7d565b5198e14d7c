"""Attack success rates: per voxel from label volumes, per organ from records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class VoxelSuccess(NamedTuple):
    """Shares in 0..1 of voxels right on the clean volume that are wrong under attack; NaN where none was right.

    Attributes:
        voxel: over all voxels.
        foreground: over voxels whose reference is not background.
    """

    voxel: float
    foreground: float


def voxel_success(adversarial: np.ndarray, clean: np.ndarray, reference: np.ndarray) -> VoxelSuccess:
    """Success rate of an attack per voxel, against the reference rather than the clean prediction.

    Source: the attack success rate of the benchmark of arXiv:2406.08486.

    Differs from the source: that compares with the clean prediction, so that repairing an error counts as success.

    Args:
        adversarial, clean: predicted class ids on the attacked and on the clean image.
        reference: true class ids.

    Shape:
        All ``(*spatial)`` integer.

    Raises:
        ValueError: on different shapes.

    Example:
        >>> voxel_success(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
        VoxelSuccess(voxel=0.3333333333333333, foreground=0.5)
    """
    if not adversarial.shape == clean.shape == reference.shape:
        raise ValueError(
            f"expected three label volumes of one shape, got {adversarial.shape}, {clean.shape} and "
            f"{reference.shape}; resample the predictions to the reference"
        )
    right = clean == reference
    wronged = right & (adversarial != reference)

    def share(where: np.ndarray) -> float:
        total = np.count_nonzero(right & where)
        return float(np.count_nonzero(wronged & where) / total) if total else float("nan")

    return VoxelSuccess(share(np.ones(right.shape, bool)), share(reference != 0))
