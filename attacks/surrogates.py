"""Several models attacked as one, for marks and attacks that shall work on models nobody has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Surrogates(nn.Module):
    """The mean of the log probabilities of several models, as logits of one.

    Log probabilities first: a model whose logits are ten times as large would otherwise decide alone. Dong et al.,
    CVPR 2018, arXiv 1710.06081, fuse logits with weights; here every model weighs the same.

    Args:
        models: maps from images (B, C, *spatial) to logits (B, K, *spatial) of the same K classes.

    Shape: images (B, C, *spatial), result (B, K, *spatial), <= 0.

    Raises:
        ValueError: without a model, or at the call if the models disagree in the shape of their logits.

    Example:
        >>> both = Surrogates([nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 3, padding=1)])
        >>> both(torch.rand(1, 1, 4, 5, 6)).shape
        torch.Size([1, 2, 4, 5, 6])
    """

    def __init__(self, models: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        if not models:
            raise ValueError("models: expected at least one, got none. Pass [model]")
        self.members = list(models)
        # Registered where they are modules, so that eval mode and frozen parameters reach them.
        self.modules_of_members = nn.ModuleList(m for m in models if isinstance(m, nn.Module))

    def forward(self, images: Tensor) -> Tensor:
        logits = [member(images) for member in self.members]
        shapes = {tuple(one.shape) for one in logits}
        if len(shapes) > 1:
            raise ValueError(
                f"models: expected logits of one shape, got {sorted(shapes)}. Fuse models of one dataset"
            )
        return torch.stack([torch.log_softmax(one, 1) for one in logits]).mean(0)
