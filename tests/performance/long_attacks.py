"""Long attacks that share no code with ours, to hold the ensemble against: torch and plain loops.

Nothing of `robustvox.attacks` is used: no loss, no projection, no loop, no best iterate. `strength.py` runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Long:
    """One long attack.

    Attributes:
        loss: what it climbs, (logits, label) -> (B,).
        unit: v = 0.9 v + g / ||g||_1, as MI-FGSM averages; otherwise v = 0.9 v + 0.1 g.
        alpha: first step in units of eps; a half cosine takes it to 0.
        steps: gradient steps.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    unit: bool = True
    alpha: float = 1.0
    steps: int = 400


def soft_dice(logits: Tensor, label: Tensor) -> Tensor:
    """One minus the mean soft Dice of the foreground classes of the reference, per sample.

    Args:
        logits: (B, K, x, y, z).
        label: (B, x, y, z), the same in every sample.
    """
    p = logits.softmax(1)
    y = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(p)
    found = [c for c in range(1, logits.shape[1]) if y[:, c].any()]
    each = [2 * (p[:, c] * y[:, c]).sum((1, 2, 3)) / (p[:, c] + y[:, c]).sum((1, 2, 3)) for c in found]
    return 1 - torch.stack(each).mean(0)


def entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy, per sample; shapes as in `soft_dice`."""
    return F.cross_entropy(logits, label, reduction="none").mean((1, 2, 3))


def hard_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Mean Dice of the foreground classes in reference or answer, per sample; shapes as in `soft_dice`."""
    left = []
    for found, known in zip(logits.argmax(1), label, strict=True):
        pairs = [(found == c, known == c) for c in range(1, logits.shape[1])]
        each = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs if a.any() or b.any()]
        left.append(torch.stack(each).mean() if each else torch.ones(()))
    return torch.stack(left)


def climb(
    network: nn.Module, image: Tensor, label: Tensor, attack: Long, *, eps: float, seeds: list[int]
) -> Tensor:
    """Step along the signs of averaged gradients from random points of the ball, one start per seed.

    Args:
        network: frozen.
        image: (1, C, x, y, z) in [0, 1].
        label: (1, x, y, z).
        attack: how.
        eps: L-inf radius.
        seeds: one per start.

    Returns:
        (len(seeds), C, x, y, z), of every start the visited point with the lowest hard Dice.
    """
    low, high = (image - eps).clamp_min(0), (image + eps).clamp_max(1)
    starts = [torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    x = (image + eps * (2 * torch.cat(starts) - 1)).clamp(low, high)
    label = label.expand(len(seeds), -1, -1, -1)
    best, lowest, v = x, torch.full((len(seeds),), math.inf), torch.zeros_like(x)
    for step in range(attack.steps + 1):
        last = step == attack.steps
        x = x.detach().requires_grad_(not last)
        logits = network(x)
        left = hard_dice(logits, label)
        best = torch.where((left < lowest).view(-1, 1, 1, 1, 1), x.detach(), best)
        lowest = torch.minimum(left, lowest)
        if last or not lowest.any():
            break  # nothing is left, or no steps
        (g,) = torch.autograd.grad(attack.loss(logits, label).sum(), x)
        size = g.abs().sum((1, 2, 3, 4), keepdim=True).clamp_min(1e-30)
        v = 0.9 * v + g / size if attack.unit else 0.9 * v + 0.1 * g
        alpha = attack.alpha * eps * (1 + math.cos(math.pi * step / attack.steps)) / 2
        x = (x.detach() + alpha * v.sign()).clamp(low, high)
    return best


INDEPENDENT = {
    "momentum Dice": Long(loss=soft_dice),
    "momentum CE": Long(loss=entropy),
    "average Dice": Long(loss=soft_dice, unit=False),
}
