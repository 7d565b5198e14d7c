"""Counts and sums by class: what losses and metrics know of a segmentation. Nothing is read back from a device.

``bincount`` tells the host how many bins it needs, which makes the host wait for a GPU at every step; there, all
classes are compared at once instead. Both ways add in a fixed order, so the same input gives the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 1 << 28  # voxels times classes that are compared in one go on a GPU


def predicted(logits: Tensor) -> Tensor:
    """Class of the highest logit per voxel, (B, *spatial) int64, without a graph.

    The loss and the metric ask for the same one, so it stays with the logits: it costs as much as a softmax.
    """
    if logits.is_inference():  # changes to such a tensor cannot be noticed
        return logits.max(1).indices
    known = getattr(logits, "_robustvox_predicted", None)
    if known is None or known[0] != logits._version:
        # max() rather than argmax(): the same indices, four times faster over a strided axis on the CPU.
        known = logits._version, logits.detach().max(1).indices
        logits._robustvox_predicted = known  # type: ignore[attr-defined]
    return known[1]


def _on_host(tensor: Tensor) -> bool:
    """Whether the host computes it: then one serial pass over the voxels is fastest, and nobody waits."""
    return tensor.device.type == "cpu"


def class_counts(classes: Tensor, mask: Tensor | None, num_classes: int) -> Tensor:
    """How many counted voxels carry each class, (B, K) int64.

    Args:
        classes: (B, ...) int64; others than 0 to K - 1 are not counted.
        mask: bool, like `classes`, or None for all.
        num_classes: K.
    """
    if mask is not None:
        classes = classes.masked_fill(~mask, num_classes)
    batch, flat = classes.shape[0], classes.flatten(1)
    if _on_host(flat):
        # One spare bin per sample for what does not count.
        bins = num_classes + 1
        offset = torch.arange(0, batch * bins, bins).unsqueeze(1)
        counts = torch.bincount((flat + offset).flatten(), minlength=batch * bins)
        return counts.view(batch, bins)[:, :num_classes]
    kinds = torch.arange(num_classes, device=flat.device)
    if flat.numel() * num_classes <= _AT_ONCE:
        return (flat.unsqueeze(1) == kinds.view(1, -1, 1)).sum(2)
    return torch.stack([(flat == kind).sum(1) for kind in range(num_classes)], 1)


def class_sums(values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Sum of `values` (B, N) over the voxels of each class (B, N), (B, K), without a graph.

    scatter_add_ would do, but adds in any order on a GPU: the same seed would no longer give the same bits.
    """
    if _on_host(values):
        offset = torch.arange(0, values.shape[0] * num_classes, num_classes).unsqueeze(1)
        bins, wide = (classes + offset).flatten(), values.double().flatten()
        sums = torch.bincount(bins, weights=wide, minlength=values.shape[0] * num_classes)
        return sums.view(-1, num_classes).to(values.dtype)
    nothing = values.new_zeros(())
    if values.numel() * num_classes <= _AT_ONCE // 4:
        kinds = torch.arange(num_classes, device=values.device).view(1, -1, 1)
        return torch.where(classes.unsqueeze(1) == kinds, values.unsqueeze(1), nothing).sum(2)
    return torch.stack([torch.where(classes == k, values, nothing).sum(1) for k in range(num_classes)], 1)
