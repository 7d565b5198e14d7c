"""SegPGD: PGD that turns from right voxels to wrong ones as it goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Sharing
from .counting import predicted
from .losses import cross_entropy_map, voxel_mean
from .sign_gradient import RandomStartSign
from .task import Objective, Task


@dataclass(frozen=True, kw_only=True)
class SegPGD(RandomStartSign):
    """PGD on cross entropy that weighs right and wrong voxels apart, on a schedule.

    Early steps spend the budget on voxels that the model still has right; later ones also keep lost voxels
    lost: L_t = mean_j w_j * CE_j with w_j = 1 - lambda_t where argmax_j = y_j and lambda_t elsewhere,
    lambda_t = (t - 1) / (2 steps) for t = 1..steps. The weights are constants for the gradient. Targeted:
    voxels that already are t_j weigh lambda_t, the others 1 - lambda_t, and the loss falls. Start, steps, cost
    and best iterate as in `PGD`; the last point, which no step leaves, is valued with the last lambda.

    Source: Gu et al., "SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
        Segmentation Robustness", ECCV 2022, arXiv 2207.12391; targeted form from Agnihotri, Jung, Keuper,
        ICML 2024, arXiv 2302.02213.
    Differs from the source: any spatial rank; returns the best visited point per sample and not the last.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: step in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps, >= 0; 0 returns the start point.
        random_start: begin at a uniform random point of the ball.
        restarts: independent random starts, >= 1.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `alpha`, `steps` or `restarts` is out of range.

    Example:
        >>> from robustvox.attacks import SegPGD, tiny_case
        >>> model, images, labels = tiny_case(num_classes=3)
        >>> bool((SegPGD(steps=5)(model, images, labels) - images).abs().max() <= 8 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    def wrong_share(self, step: int) -> float:
        """lambda of the step with this index, counted from 0: the weight of the wrong voxels, in [0, 0.5)."""
        return min(step, max(self.steps - 1, 0)) / (2 * max(self.steps, 1))

    def objective(self, task: Task) -> Objective:
        def weighted(logits: Tensor, step: int) -> Tensor:
            share = self.wrong_share(step)
            hit, miss = (1 - share, share) if task.targets is None else (share, 1 - share)
            weight = agreement_weight(logits, task.aim, hit, miss)
            entropy = cross_entropy_map(logits, task.aim)
            return task.to_increase(voxel_mean(weight * entropy, task.mask))

        return weighted


@torch.no_grad()
def agreement_weight(logits: Tensor, labels: Tensor, hit: float, miss: float) -> Tensor:
    """`hit` where the prediction equals the label, `miss` elsewhere, per voxel, without a graph.

    Args:
        logits: (B, K, *spatial).
        labels: (B, 1, *spatial).
        hit: weight of a voxel whose prediction is its label.
        miss: weight of every other voxel.

    Returns:
        (B, *spatial), in the dtype of the logits.
    """
    weight = torch.full_like(logits[:, 0], miss)
    return weight.masked_fill_(predicted(logits) == labels[:, 0], hit)
