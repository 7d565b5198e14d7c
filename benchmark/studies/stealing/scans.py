"""What a thief owns: unlabelled volumes of its own scanner, and an object to calibrate with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustvox.datasets import Volume
from robustvox.datasets.scanner import frequencies


@dataclass(frozen=True, eq=False)
class Scan:
    """One unlabelled volume.

    Shape:
        image: ``(C, *spatial)`` float32 in [0, 1].
    """

    id: str
    image: np.ndarray
    spacing_mm: tuple[float, ...]

    @classmethod
    def of(cls, volume: Volume) -> Scan:
        """The volume without its label: nothing of the truth reaches the thief."""
        return cls(volume.id, volume.image, volume.spacing_mm)


def texture_phantoms(
    count: int, shape: Sequence[int], spacing_mm: Sequence[float], seed: int = 0
) -> list[Scan]:
    """Synthetic texture with power at every frequency, falling like 1/f^3 as that of anatomy does.

    What a calibration object needs: a flatter one would leave no bin far above the lowest, which the calibration
    takes for the noise floor; a coarser one would be clipped by an edge-enhancing scanner.

    Args:
        count: how many.
        shape: ``(*spatial)``.
        spacing_mm: one entry per axis.
        seed: of the texture.

    Returns:
        One-channel scans in [0, 1], mean 0.5, standard deviation 0.1 but for clipping.

    Example:
        >>> phantom = texture_phantoms(1, (16, 16, 16), (1.0, 1.0, 1.0))[0]
        >>> phantom.image.shape, bool(0 <= phantom.image.min() < phantom.image.max() <= 1)
        ((1, 16, 16, 16), True)
    """
    rng = np.random.default_rng(seed)
    frequency = frequencies(shape, spacing_mm)
    frequency[(0,) * len(shape)] = np.inf
    scans = []
    for number in range(count):
        texture = np.fft.ifftn(np.fft.fftn(rng.standard_normal(tuple(shape))) / frequency**1.5).real
        image = np.clip(0.5 + 0.1 * texture / texture.std(), 0, 1).astype(np.float32)
        scans.append(Scan(f"texture_{number}", image[None], tuple(spacing_mm)))
    return scans
