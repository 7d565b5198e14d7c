"""Which frequencies of a perturbation do the harm: bands of its 3D DCT, filtered out and scored again.

Frequencies are given per axis as a share of the Nyquist frequency: coefficient ``k`` of an axis of ``n`` voxels
stands for ``k / n``, half of which is cycles per voxel. On the 96 voxels of the published study ``8/96`` is
index 8; on any other size it is the same wave. The constant (DC) belongs to the lowest band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.fft import dctn, idctn

KINDS = ("cube", "low_high", "radial")


RESCALE = ("none", "linf", "l2")


SIDE = 96
"""Side of the published windows; edges are printed as multiples of 1 / SIDE."""


PUBLISHED = tuple(
    (low / SIDE, high / SIDE)
    for low, high in ((0, 8), (0, 16), (0, 32), (2, 64), (8, 96), (16, 96), (32, 96), (16, 48), (32, 64))
)
"""The cubes of arXiv 2406.08486's code, lower and upper edge."""


CUTS = tuple(cut / SIDE for cut in (2, 4, 8, 16, 32, 48, 64, 80))
"""Where ``low_high`` and ``radial`` cut unless told otherwise."""


@dataclass(frozen=True)
class Band:
    """A set of frequencies.

    Args:
        kind: ``"cube"``: every index lies in [low, high); ``"low"``: the cube below ``high``; ``"high"``: all but
            the cube below ``low``; ``"radial"``: the Euclidean norm of the frequency lies in [low, high).
        low, high: edges as shares of the Nyquist frequency; ``high`` infinite for "everything above".
    """

    kind: str
    low: float
    high: float

    @property
    def name(self) -> str:
        """Edges in 96ths: ``cube 8-96``, ``low <8``, ``high >=8``, ``radial 8-16``."""
        low, high = (f"{edge * SIDE:g}" for edge in (self.low, self.high))
        if self.kind == "low":
            return f"low <{high}"
        return f"{self.kind} >={low}" if math.isinf(self.high) else f"{self.kind} {low}-{high}"

    def mask(self, shape: Sequence[int]) -> np.ndarray:
        """Which coefficients of a volume ``shape`` belong to the band, boolean ``shape``."""
        axes = np.ogrid[tuple(slice(0, n) for n in shape)]
        shares = [axis / n for axis, n in zip(axes, shape, strict=True)]
        if self.kind == "radial":
            radius = np.sqrt(np.square(np.broadcast_arrays(*shares)).sum(axis=0))
            return (radius >= self.low) & (radius < self.high)
        inside = np.ones(tuple(shape), bool)
        low, high = (0.0, self.low) if self.kind == "high" else (self.low, self.high)
        for share in shares:
            inside &= (share >= low) & (share < high)
        return ~inside if self.kind == "high" else inside


def bands(kind: str, edges: Sequence) -> tuple[Band, ...]:
    """The bands of one kind.

    Args:
        kind: ``"cube"``, cubes [low, high)^3 as published: neither disjoint nor, taken together, everything, and
            a "high-pass" cube lacks all that is low along one axis only; ``"low_high"``, per cut the low cube and
            its true complement; ``"radial"``, shells that partition all frequencies.
        edges: pairs (low, high) for ``"cube"``, else cuts; shares of the Nyquist frequency.

    Raises:
        ValueError: for an unknown kind, or edges that are not positive and increasing.

    Example:
        >>> [band.name for band in bands("low_high", (8 / 96,))]
        ['low <8', 'high >=8']
        >>> [band.name for band in bands("radial", (8 / 96, 16 / 96))]
        ['radial 0-8', 'radial 8-16', 'radial >=16']
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind of band among {', '.join(KINDS)}, got {kind!r}")
    if kind == "cube":
        if not edges or any(not 0 <= low < high for low, high in edges):
            raise ValueError(f"expected cubes as pairs 0 <= low < high, got {list(edges)}")
        return tuple(Band("cube", low, high) for low, high in edges)
    cuts = list(edges)
    if not cuts or cuts[0] <= 0 or any(b <= a for a, b in pairwise(cuts)):
        raise ValueError(f"expected cuts above 0 in increasing order, got {cuts}; write them as 8/96,16/96")
    if kind == "low_high":
        return tuple(band for cut in cuts for band in (Band("low", 0.0, cut), Band("high", cut, math.inf)))
    limits = [0.0, *cuts, math.inf]
    return tuple(Band("radial", low, high) for low, high in pairwise(limits))


def band_masks(shape: Sequence[int], kind: str, edges: Sequence) -> dict[str, np.ndarray]:
    """Boolean masks over the coefficients of a volume, by the name of their band; arguments as :func:`bands`.

    Example:
        >>> masks = band_masks((4, 4, 4), "low_high", (0.5,))
        >>> {name: int(mask.sum()) for name, mask in masks.items()}
        {'low <48': 8, 'high >=48': 56}
    """
    return {band.name: band.mask(shape) for band in bands(kind, edges)}


def filter_perturbation(perturbation: np.ndarray, mask: np.ndarray, *, rescale: str = "none") -> np.ndarray:
    """The part of a perturbation that lies in a band.

    The orthonormal DCT-II of the whole volume, so that the parts of disjoint bands are orthogonal, add up to the
    whole, and their energies too.

    Source: the frequency study of arXiv 2406.08486.

    Differs from the source: that filters window by window, whose seams are high frequencies of their own, and takes
    the difference of volumes truncated to 8 bits, whose offset of half a gray level sits in the lowest
    coefficient. On a volume of one window and in floating point both are the same.

    Args:
        perturbation: adversarial minus clean image.
        mask: which coefficients stay, see :func:`band_masks`.
        rescale: ``"linf"`` or ``"l2"`` scales the part to that norm of the whole; a part without energy stays so.

    Shape:
        perturbation: ``(C, *spatial)`` float; mask: ``(*spatial)`` boolean.

    Returns:
        float64, shape of ``perturbation``.

    Raises:
        ValueError: on a mask of another shape or an unknown ``rescale``.

    Example:
        >>> whole = np.random.default_rng(0).normal(size=(1, 6, 5, 4))
        >>> low, high = (filter_perturbation(whole, m) for m in band_masks((6, 5, 4), "low_high", (0.3,)).values())
        >>> bool(np.allclose(low + high, whole, atol=1e-14)), bool(abs((low * high).sum()) < 1e-12)
        (True, True)
    """
    if rescale not in RESCALE:
        raise ValueError(f"expected rescale among {', '.join(RESCALE)}, got {rescale!r}")
    if mask.shape != perturbation.shape[1:]:
        raise ValueError(
            f"mask: expected the spatial shape {perturbation.shape[1:]}, got {mask.shape}; make it with band_masks"
        )
    whole = np.asarray(perturbation, np.float64)
    axes = range(1, whole.ndim)
    part: Any = idctn(dctn(whole, axes=axes, norm="ortho") * mask, axes=axes, norm="ortho")
    if rescale == "none":
        return part
    norm = (lambda x: float(np.abs(x).max())) if rescale == "linf" else (lambda x: float(np.linalg.norm(x)))
    # Below rounding there is nothing to scale but noise.
    return part * (norm(whole) / norm(part)) if norm(part) > 1e-9 * norm(whole) else np.zeros_like(whole)


def energy_share(part: np.ndarray, whole: np.ndarray) -> float:
    """Share of the squared L2 norm of ``whole`` that ``part`` has; NaN for a perturbation of nothing."""
    total = float(np.square(whole, dtype=np.float64).sum())
    return float(np.square(part, dtype=np.float64).sum()) / total if total else math.nan
