"""FGSM and BIM: the signed gradient from the clean volume, once or in small steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import LossAttack, Sharing, ball
from .sign_gradient import IterativeSign, SignGradient
from .task import Objective, StepInfo, Task, input_gradient


@dataclass(frozen=True, kw_only=True)
class FGSM(LossAttack, SignGradient):
    """Fast gradient sign method.

    Moves every voxel by `eps` in the direction that increases the loss to first order:
    x' = clamp(x + eps * sign(grad_x L(f(x), y)), 0, 1). A voxel with zero gradient stays. Exactly one
    forward and one backward; the result is not evaluated, and `on_step` sees the clean point.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015, arXiv
        1412.6572.
    Differs from the source: the default loss is the foreground
        soft Dice, the reported metric made differentiable (published attacks on volumes use DiceCE).

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps` is not in [0, 1] or `loss` is unknown.

    Example:
        >>> from robustvox.attacks import FGSM, tiny_case
        >>> model, images, labels = tiny_case()
        >>> bool((FGSM(eps=4 / 255)(model, images, labels) - images).abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def perturb(self, task: Task) -> Tensor:
        images = task.images.clone().requires_grad_()
        logits = task.logits(images)
        loss = self.objective(task)(logits, 0)
        gradient = input_gradient(loss, images)
        if task.on_step is not None:
            returned = torch.ones_like(loss, dtype=torch.int64)
            task.on_step(StepInfo(0, 1, loss.detach(), task.dice(logits), returned))
        return torch.add(task.images, gradient.sign(), alpha=self.eps).clamp_(*ball(task.images, self.eps))


@dataclass(frozen=True, kw_only=True)
class BIM(LossAttack, IterativeSign):
    """Basic iterative method (I-FGSM).

    Repeats small signed gradient steps from the clean volume, each clipped to the L-inf ball and to
    [0, 1]: x_{t+1} = clamp(x_t + alpha * sign(grad L), lo, hi), x_0 = x. This is PGD without random start:
    the two are no independent evidence. steps + 1 forwards, steps backwards.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial Examples in the Physical World", ICLR 2017 workshop,
        arXiv 1607.02533.
    Differs from the source: returns, per sample, the visited point with the lowest hard foreground Dice
        and not the last; `alpha` and `steps` are free; the default loss is the foreground
        soft Dice, the reported metric made differentiable (published attacks on volumes use DiceCE).

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: step in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps, >= 0; 0 returns the clean volume.
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `alpha` or `steps` is out of range, or `loss` is unknown.

    Example:
        >>> from robustvox.attacks import BIM, tiny_case
        >>> BIM(steps=5)(*tiny_case()).shape
        torch.Size([1, 1, 8, 9, 10])
    """

    sharing = Sharing.ANY_SHAPES

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)
