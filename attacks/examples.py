"""A case small enough for an example: what the docstrings of the attacks attack."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tiny_case(num_classes: int = 2, batch: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with random weights, and volumes that are all of class 1.

    Args:
        num_classes: K, background included.
        batch: B.

    Returns:
        The model, images (B, 1, 8, 9, 10) in [0, 1] and labels (B, 1, 8, 9, 10); the same at every call.

    Example:
        >>> from robustvox.attacks import PGD
        >>> adversarial = PGD(steps=2)(*tiny_case())
        >>> adversarial.shape
        torch.Size([1, 1, 8, 9, 10])
    """
    generator = torch.Generator().manual_seed(0)
    model = nn.Conv3d(1, num_classes, 3, padding=1)
    for parameter in model.parameters():
        parameter.data.uniform_(-0.2, 0.2, generator=generator)
    images = torch.rand(batch, 1, 8, 9, 10, generator=generator)
    return model, images, torch.ones_like(images, dtype=torch.int64)
