"""CosPGD: PGD that spends its budget where the model is still right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Sharing
from .counting import highest
from .losses import cross_entropy_map, voxel_mean
from .sign_gradient import RandomStartSign
from .task import Objective, Task


@dataclass(frozen=True, kw_only=True)
class CosPGD(RandomStartSign):
    """PGD on cross entropy that is weighted, voxel by voxel, by how right the model still is.

    Voxels whose probability vector p still points at the reference keep their weight, lost ones fade, so
    the budget goes where it can still flip something: L = mean_j w_j * CE_j with w_j = cos(p_j,
    onehot(y_j)) = p_{j,y} / ||p_j||_2, a constant for the gradient. Targeted: w_j = 1 - cos(p_j, onehot(t_j))
    and the loss falls. Start, steps, cost and best iterate as in `PGD`.

    Source: Agnihotri, Jung, Keuper, "CosPGD: an efficient white-box adversarial attack for pixel-wise
        prediction tasks", ICML 2024, arXiv 2302.02213.
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
        >>> from robustvox.attacks import CosPGD, tiny_case
        >>> model, images, labels = tiny_case(num_classes=3)
        >>> adversarial = CosPGD(eps=0.01, steps=5)(model, images, labels)
        >>> 0 < (adversarial - images).abs().max().item() <= 0.01
        True
    """

    sharing = Sharing.ANY_SHAPES

    def objective(self, task: Task) -> Objective:
        def weighted(logits: Tensor, _: int) -> Tensor:
            alignment = cosine_weight(logits, task.aim)
            weight = alignment if task.targets is None else 1 - alignment
            entropy = cross_entropy_map(logits, task.aim)
            return task.to_increase(voxel_mean(weight * entropy, task.mask))

        return weighted


@torch.no_grad()
def cosine_weight(logits: Tensor, labels: Tensor) -> Tensor:
    """Cosine of the angle between softmax(logits) and the one-hot label, per voxel, without a graph.

    Args:
        logits: (B, K, *spatial).
        labels: (B, 1, *spatial).

    Returns:
        (B, *spatial), in [0, 1].
    """
    # The cosine does not feel the softmax's denominator: exp(z - max) has the same direction and a norm >= 1.
    scaled = (logits - highest(logits)[0].unsqueeze(1)).exp_()
    correct = scaled.gather(1, labels)[:, 0]
    return correct / scaled.square_().sum(1).sqrt_()
