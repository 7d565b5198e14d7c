"""Counts and sums by class: what losses and metrics know of a segmentation. Nothing is read back from a device.

``bincount`` tells the host how many bins it needs, which makes the host wait for a GPU at every step; there, all
classes are compared at once instead. Both ways add in a fixed order, so the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

_AT_ONCE = 1 << 28  # voxels times classes that are compared in one go on a GPU


_Made = TypeVar("_Made")


class Agreement(NamedTuple):
    """What a hard prediction shares with a reference, by class; no graph.

    Attributes:
        hits: counted voxels predicted right, (B, K) int64.
        sizes: counted voxels of the reference, (B, K) int64.
        extent: voxels of the prediction plus those of the reference, (B, K) int64; 0 for the background, which no
            score looks at.
        present: whether a foreground class is in either, (B, K) bool.
        count: how many are, (B,) int64.
    """

    hits: Tensor
    sizes: Tensor
    extent: Tensor
    present: Tensor
    count: Tensor


def predicted(logits: Tensor) -> Tensor:
    """Class of the highest logit per voxel, (B, *spatial) int64, without a graph.

    The loss and the metric ask for the same one, so it stays with the logits: it costs as much as a softmax.
    """
    return highest(logits)[1]


def highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest logit per voxel and its class, (B, *spatial) each, without a graph; see `predicted`.

    The class is what `logits.max(1)` gives: the first one where several are highest.
    """
    return _remembered(logits, "highest", (), lambda: _highest(logits.detach()))


def _highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    classes = logits.shape[1]
    if not _on_host(logits) or classes > 255 or logits.stride(1) == 1:  # channels last, max(1) is as fast
        values, indices = logits.max(1)
        return values, indices
    # On a CPU max(1) goes from voxel to voxel, and argmax(1) is four times slower still. What follows goes from class to
    # class: a third of the time for 14 classes, the same numbers but for the sign of a zero.
    values = logits.amax(1)
    if values.isnan().any():
        values, indices = logits.max(1)
        return values, indices
    still_below = logits[:, 0] < values
    first, below = still_below.to(torch.uint8), torch.empty_like(still_below)
    for k in range(1, classes - 1):
        still_below &= torch.lt(logits[:, k], values, out=below)
        first += still_below
    return values, first.long()


def agreement(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Agreement:
    """How a prediction agrees with labels (B, 1, *spatial); the loss and the metric share one answer."""
    return _remembered(logits, "agreement", (labels, mask), lambda: _agreement(logits, labels, mask))


def class_sizes(labels: Tensor, mask: Tensor | None, num_classes: int) -> Tensor:
    """`class_counts` of labels that an attack asks for at every step: counted once."""
    return _remembered(
        labels, f"sizes {num_classes}", (mask,), lambda: class_counts(labels, mask, num_classes)
    )


def _agreement(logits: Tensor, labels: Tensor, mask: Tensor | None) -> Agreement:
    found, wanted, classes = predicted(logits), labels[:, 0], logits.shape[1]
    sizes, mask = class_sizes(labels, mask, classes), None if mask is None else mask[:, 0]
    if _on_host(found):
        # One pass for both: how often each class of the reference was predicted as each class.
        pairs = class_counts(torch.add(found, wanted, alpha=classes), mask, classes * classes)
        pairs = pairs.view(-1, classes, classes)
        hits, sizes_found = pairs.diagonal(dim1=1, dim2=2), pairs.sum(1)
    else:
        both = torch.cat([found, found.masked_fill(found != wanted, classes)])
        counts = class_counts(both, None if mask is None else torch.cat([mask, mask]), classes)
        sizes_found, hits = counts.chunk(2)
    extent = sizes_found + sizes
    extent[:, 0].zero_()
    present = extent > 0
    return Agreement(hits, sizes, extent, present, present.sum(1))


def _remembered(
    owner: Tensor, what: str, others: tuple[Tensor | None, ...], make: Callable[[], _Made]
) -> _Made:
    """What `make` gives, kept with `owner` for as long as neither it nor the others are written to."""
    everyone = (owner, *(other for other in others if other is not None))
    if any(tensor.is_inference() for tensor in everyone):  # changes to such a tensor cannot be noticed
        return make()
    versions = [tensor._version for tensor in everyone]
    if not hasattr(owner, "_robustvox"):
        owner._robustvox = {}  # type: ignore[attr-defined]
    kept: dict[str, Any] = owner._robustvox  # type: ignore[attr-defined]
    before, beside, known = kept.get(what, (None, (), None))
    if before != versions or any(one is not other for one, other in zip(beside, others, strict=True)):
        known = make()
        kept[what] = versions, others, known
    return known  # type: ignore[return-value]


def _on_host(tensor: Tensor) -> bool:
    """Whether the host computes it: then one serial pass over the voxels is fastest, and nobody waits."""
    return tensor.device.type == "cpu"


@lru_cache(maxsize=64)
def _kinds(num_classes: int, device: torch.device) -> Tensor:
    # Kept on the device: one kernel less per question. Made outside inference mode, as others may use it later.
    with torch.inference_mode(False):
        return torch.arange(num_classes, device=device)


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
    kinds = _kinds(num_classes, flat.device)
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
    if values.numel() * num_classes <= _AT_ONCE // 4:
        kinds = _kinds(num_classes, values.device)
        return torch.where(classes.unsqueeze(1) == kinds.view(1, -1, 1), values.unsqueeze(1), 0.0).sum(2)
    return torch.stack([torch.where(classes == k, values, 0.0).sum(1) for k in range(num_classes)], 1)


def class_dot(first: Tensor, second: Tensor, start: Tensor) -> Tensor:
    """`start` (B, 1, N) plus the sum over classes of the products of two (B, K, N), (B, 1, N); writes to `start`."""
    if not _on_host(first):
        return start.add_((first * second).sum(1, keepdim=True))
    # The host is as fast without a third volume of size K, and adds in the order of the classes.
    for c in range(first.shape[1]):
        start[:, 0].addcmul_(first[:, c], second[:, c])
    return start
