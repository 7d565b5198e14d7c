"""Networks trained on other intensities than [0, 1], and heads with a sigmoid per label, as what the suite attacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOST_LABELS = 6


class _Around(nn.Module):
    """A network inside another; its window stays known."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if (roi_size := getattr(network, "roi_size", None)) is not None:
            self.roi_size = roi_size


class Normalized(_Around):
    """A network that was trained on ``(image - mean) / std``, for images in [0, 1].

    Budgets are measured in [0, 1]; the network still sees the intensities it was trained on, and gradients pass through.

    Args:
        network: ``(B, C, *spatial)`` as it was trained to logits ``(B, K, *spatial)``.
        mean: subtracted from images in [0, 1]; one number, or one per channel.
        std: divides what is left; positive, one number or one per channel.

    Shape:
        ``(B, C, *spatial)`` float in [0, 1] to what the network returns.

    Raises:
        ValueError: values that are not finite, a ``std`` that is not positive; when called, images with another number of
            channels than there are values.

    Example:
        >>> import torch
        >>> network = Normalized(torch.nn.Identity(), mean=0.25, std=0.5)
        >>> network(torch.full((1, 1, 2, 2, 2), 0.5)).unique().item()
        0.5
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__(network)
        self.register_buffer("mean", _values("mean", mean))
        self.register_buffer("std", _values("std", std))
        if not bool((self.std > 0).all()):
            raise ValueError(f"expected a std above 0, got {std}; give the one the network was trained with")

    def forward(self, images: Tensor) -> Tensor:
        for values in (self.mean, self.std):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(
                    f"expected images with {len(values)} channels, one per mean and std, got {images.shape[1]}"
                )
        shape = (1, -1, *[1] * (images.ndim - 2))
        return self.network((images - self.mean.view(shape).to(images)) / self.std.view(shape).to(images))

    @classmethod
    def from_bounds(cls, network: nn.Module, low: float, high: float) -> Normalized:
        """A network that takes intensities between ``low`` and ``high``, for images in [0, 1].

        Example:
            >>> import torch
            >>> network = Normalized.from_bounds(torch.nn.Identity(), -175, 250)
            >>> network(torch.tensor([0.0, 1.0]).view(1, 1, 2)).flatten().round(decimals=3).tolist()
            [-175.0, 250.0]
        """
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"expected bounds (low, high) with low < high, got ({low}, {high})")
        return cls(network, mean=-low / (high - low), std=1 / (high - low))


class MultiLabel(_Around):
    """A head with one sigmoid per label, labels that may overlap, as a softmax over all sets of labels.

    Set ``s`` has the logit ``sum of z_k over k in s``. The softmax over the ``2^K`` sets is then exactly the product of the
    ``K`` sigmoids, cross entropy is the sum of the binary ones, and the largest logit is the set of labels whose sigmoid
    is above a half. Set ``s`` is class ``sum of 2^k``, which is what :meth:`classes` makes of label volumes.

    Args:
        network: ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``, before the sigmoid.
        num_labels: ``K``, from 1 to 6.

    Shape:
        ``(B, C, *spatial)`` to ``(B, 2^K, *spatial)``.

    Raises:
        ValueError: another number of labels; when called, a network that returns another number of channels.

    Example:
        >>> import torch
        >>> head = MultiLabel(torch.nn.Identity(), num_labels=2)
        >>> logits = torch.tensor([[[3.0], [-1.0]]])
        >>> head(logits).flatten().tolist()
        [0.0, 3.0, -1.0, 2.0]
        >>> sets = head(logits).softmax(1).flatten()
        >>> bool(torch.isclose(sets[1] + sets[3], logits[0, 0].sigmoid()))
        True
    """

    members: Tensor

    def __init__(self, network: nn.Module, num_labels: int) -> None:
        super().__init__(network)
        if not 1 <= num_labels <= MOST_LABELS:
            raise ValueError(
                f"expected 1 to {MOST_LABELS} overlapping labels, got {num_labels}; evaluate them in groups"
            )
        sets = [tuple(reversed(bits)) for bits in itertools.product((0.0, 1.0), repeat=num_labels)]
        self.register_buffer("members", torch.tensor(sets))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        labels = self.members.shape[1]
        if logits.shape[1] != labels:
            raise ValueError(
                f"expected one logit for each of {labels} labels, got {logits.shape[1]} channels; name as many labels"
            )
        members = self.members.to(logits).view(1, -1, labels, *[1] * (logits.ndim - 2))
        # Label by label: the product of all would take K times the memory.
        found = logits[:, :1] * members[:, :, 0]
        for k in range(1, labels):
            found = found + logits[:, k : k + 1] * members[:, :, k]
        return found

    @staticmethod
    def classes(labels: Tensor) -> Tensor:
        """Label volumes ``(..., K, *spatial)`` with three spatial axes, 0 or 1, as one class volume ``(..., *spatial)``.

        Example:
            >>> import torch
            >>> MultiLabel.classes(torch.tensor([1, 1]).view(2, 1, 1, 1)).item()
            3
        """
        weights = 2 ** torch.arange(labels.shape[-4], device=labels.device)
        return (labels.long() * weights.view(-1, 1, 1, 1)).sum(-4)


def _values(name: str, given: float | Sequence[float]) -> Tensor:
    values = torch.as_tensor(given, dtype=torch.float64).flatten()
    if not len(values) or not bool(torch.isfinite(values).all()):
        raise ValueError(f"expected finite {name}, one number or one per channel, got {given}")
    return values
