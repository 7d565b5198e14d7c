"""What scanners do to images: one random corruption of a training window, the other control of a defence.

MONAI's transforms, drawn with a seed of their own; intensities stay in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandBiasField,
    RandGaussianSmooth,
    RandGibbsNoise,
    RandRicianNoise,
)
from monai.transforms.transform import RandomizableTransform
from torch import Tensor

CORRUPTIONS: dict[str, Callable[[], RandomizableTransform]] = {
    "blur": lambda: RandGaussianSmooth((0.5, 1.5), (0.5, 1.5), (0.5, 1.5), prob=1.0),
    "gamma": lambda: RandAdjustContrast(prob=1.0, gamma=(0.6, 1.7)),
    "bias_field": lambda: RandBiasField(degree=3, coeff_range=(0.0, 0.2), prob=1.0),
    "ringing": lambda: RandGibbsNoise(prob=1.0, alpha=(0.2, 0.7)),
    "rician": lambda: RandRicianNoise(prob=1.0, std=0.06, sample_std=True),
}
"""Name -> transform with all its randomness ahead of it."""


def corrupt(image: Tensor, generator: torch.Generator) -> Tensor:
    """One corruption, drawn with its strength from the generator.

    Args:
        image: ``(C, *spatial)`` in [0, 1].
        generator: decides which and how strong; moved on by two numbers.

    Returns:
        Like the image, in [0, 1].

    Example:
        >>> image = torch.rand(1, 12, 12, 12)
        >>> same = [corrupt(image, torch.Generator().manual_seed(3)) for _ in range(2)]
        >>> torch.equal(*same), torch.equal(same[0], image)
        (True, False)
    """
    which, seed = (int(torch.randint(n, (), generator=generator)) for n in (len(CORRUPTIONS), 2**31))
    transform = list(CORRUPTIONS.values())[which]()
    transform.set_random_state(seed)
    changed = torch.as_tensor(transform(image.detach().cpu().contiguous()))
    return changed.to(dtype=image.dtype, device=image.device).clamp(0, 1)
