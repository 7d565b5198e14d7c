"""Losses of training steps: what defences add up, over the voxels that count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustvox.attacks.dct import dct


def masked_loss(criterion: nn.Module, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """A loss over voxels over those that count, averaged over the samples that have any.

    Shape:
        logits: ``(B, K, *spatial)``; labels and counted: ``(B, 1, *spatial)``.
    """
    if bool(counted.all()):
        return criterion(logits, labels)
    # The loss sums over voxels, whatever their order, so a row of the counted ones is a volume of its own.
    losses = [
        criterion(sample[:, there[0]][None], label[there][None, None])
        for sample, label, there in zip(logits, labels, counted, strict=True)
        if bool(there.any())
    ]
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def divergence(clean: Tensor, other: Tensor, counted: Tensor | None = None) -> Tensor:
    """KL(softmax(clean) || softmax(other)) of every sample: summed over classes, averaged over voxels, in nats.

    The published code of TRADES averages over the batch and sums the rest. In a volume that multiplies its weight
    beta by the number of voxels, 1e5 and more.

    Shape:
        clean and other: ``(B, K, *spatial)``; counted: ``(B, 1, *spatial)`` bool, or None for all; result ``(B,)``.

    Example:
        >>> logits = torch.randn(2, 3, 4, 5, 6)
        >>> divergence(logits, logits + 1).abs().max().item() < 1e-6
        True
    """
    log_p, log_q = torch.log_softmax(clean, 1), torch.log_softmax(other, 1)
    voxels = (log_p.exp() * (log_p - log_q)).sum(1).flatten(1)
    if counted is None:
        return voxels.mean(1)
    there = counted.flatten(1)
    return torch.where(there, voxels, 0.0).sum(1) / there.sum(1).clamp_min(1)


def spectral_distance(clean: Tensor, other: Tensor, *, normalized: bool = True) -> Tensor:
    """L1 distance of the 3D DCT of two logit volumes, the frequency regularisation of VAFT.

    sum|T(clean) - T(other)| / sum|T(clean)| over batch, classes and frequencies, as the published code has it;
    ``normalized=False`` is the formula of the paper, the sum alone. T is the orthonormal DCT of the whole window.

    Source: Hanif et al., MICCAI 2023, arXiv 2307.07269.

    Shape:
        clean and other: ``(B, K, *spatial)``; result: a number.

    Example:
        >>> logits = torch.randn(1, 2, 4, 6, 8)
        >>> round(spectral_distance(logits, 1.5 * logits).item(), 4)
        0.5
    """
    distance = (_spectrum(clean) - _spectrum(other)).abs().sum()
    if not normalized:
        return distance
    size = _spectrum(clean).abs().sum()
    return distance / size.clamp_min(torch.finfo(size.dtype).tiny)


def _spectrum(volume: Tensor) -> Tensor:
    """Orthonormal DCT along every spatial axis, whatever its length."""
    volume = volume.float().contiguous()
    for axis in range(2, volume.ndim):
        volume = dct(volume, volume.shape[axis], [axis])
    return volume
