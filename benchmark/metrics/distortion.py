"""How far an adversarial volume is from the clean one: L-inf, L2, PSNR and SSIM of what was scored.

An attack's nominal budget says little (frequency attacks have no L-inf bound at all), so every record carries
the distance that was measured. Everything is accumulated in float64.

LPIPS is not among them: it needs the weights of a network trained on photographs, which would have to be
downloaded, and the published column is one minus it over slices, whose values have no unit in a volume.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


_WINDOW, _SIGMA = 11, 1.5  # voxels; Wang et al. 2004, as in MONAI, torchmetrics and scikit-image


_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


class Distortion(NamedTuple):
    """Distance between two images with intensities in [0, 1].

    Attributes:
        linf: largest absolute change, in intensity units.
        l2: Euclidean norm of the change over all channels and voxels, in intensity units.
        psnr: peak signal-to-noise ratio in dB for a peak of 1; infinite when nothing changed (the records
            store that as null, and the tables leave it out of their mean).
        ssim: structural similarity, mean over channels; 1 when nothing changed.
    """

    linf: float
    l2: float
    psnr: float
    ssim: float


def measure(adversarial: np.ndarray | torch.Tensor, clean: np.ndarray | torch.Tensor) -> Distortion:
    """Measure what an attack did to an image.

    Args:
        adversarial: the image that was scored, intensities in 0..1.
        clean: the image it was made from, intensities in 0..1.

    Shape:
        adversarial, clean: ``(C, *spatial)`` float, any spatial rank and size. On a side shorter than the
        11 voxels of the usual SSIM window the window shrinks to the largest odd size that fits.

    Returns:
        The four distances, :class:`Distortion`.

    Raises:
        ValueError: on different shapes, a missing channel axis, or values that are not finite.

    Example:
        >>> clean = np.full((1, 8, 8, 8), 0.5)
        >>> result = measure(clean + 8 / 255, clean)
        >>> round(result.linf * 255, 3), round(result.psnr, 2)
        (8.0, 30.07)
    """
    changed, original = _as_float64(adversarial, "adversarial"), _as_float64(clean, "clean")
    if changed.shape != original.shape:
        raise ValueError(
            f"adversarial: expected the clean image's shape {original.shape}, got {changed.shape}; "
            "crop the padding and drop the batch axis"
        )
    difference = np.abs(changed - original)
    square = float(np.square(difference).sum())
    return Distortion(
        linf=float(difference.max()),
        l2=math.sqrt(square),
        psnr=-10.0 * math.log10(square / difference.size) if square > 0 else math.inf,
        ssim=float(np.mean([_ssim(x, y) for x, y in zip(changed, original, strict=True)])),
    )


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Mean structural similarity of two single-channel images ``(*spatial)``, Gaussian window, no padding.

    Equal to MONAI's ``SSIMMetric``, which convolves with the full 11x11x11 window in float32; one axis at a
    time in float64 is ten times faster and does not lose small variances to cancellation.
    """
    mean_x, mean_y = _smooth(x), _smooth(y)
    var_x = _smooth(x * x) - mean_x**2
    var_y = _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float(np.mean(luminance * (2 * covariance + _C2) / (var_x + var_y + _C2)))


def _smooth(image: np.ndarray) -> np.ndarray:
    """Windowed mean at every position where the whole window lies inside the image."""
    from scipy.ndimage import correlate1d

    for axis, side in enumerate(image.shape):
        half = (min(_WINDOW, side) - 1) // 2
        window = np.exp(-0.5 * np.square(np.arange(-half, half + 1) / _SIGMA))
        image = correlate1d(image, window / window.sum(), axis=axis)
        image = image[(slice(None),) * axis + (slice(half, side - half),)]
    return image


def _as_float64(image: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) and hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    array = np.asarray(image, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name}: expected an image (C, *spatial) with voxels, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: expected finite intensities, got {np.count_nonzero(~np.isfinite(array))} NaN or "
            "infinite voxels; an attack that divides by a constant slice does this"
        )
    return array
