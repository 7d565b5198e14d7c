"""Annealed sign ascent: averaged gradients and a step that a half cosine takes from wide to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

from torch import Tensor

from . import checks
from .base import LossAttack, Sharing
from .mifgsm import accumulated_signs
from .sign_gradient import RandomStartSign, StepRule
from .task import Objective, Task


@dataclass(frozen=True, kw_only=True)
class Annealed(LossAttack, RandomStartSign):
    """Sign ascent with momentum whose step shrinks from the whole radius to nothing.

    From a random point of the ball, steps along the sign of the averaged gradients as in `MIFGSM`, each shorter
    than the last: g_{t+1} = momentum * g_t + grad L / ||grad L||_1, x_{t+1} = clamp(x_t + alpha_t *
    sign(g_{t+1}), lo, hi), alpha_t = alpha (1 + cos(pi t / steps)) / 2. Wide steps cross the small bumps of a
    rough loss, the average does not follow each of them, and the last steps settle. It takes hundreds of steps
    to pay. Per restart steps + 1 forwards and steps backwards.

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv 1710.06081, for the
        averaged gradients; the cosine from Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
        Restarts", ICLR 2017, arXiv 1608.03983.
    Differs from the source: neither has the two together, a random start, or restarts; the cosine has no warm
        restarts; returns, per sample, the visited point of all runs with the lowest hard foreground Dice and
        not the last; the default loss is the foreground soft Dice.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: first step in intensity units, in [0, 1]; None means eps.
        steps: gradient steps, >= 0; 0 returns the start point.
        random_start: begin at a uniform random point of the ball.
        restarts: independent random starts, >= 1.
        momentum: weight of the accumulated gradients against the new one, >= 0; 1 forgets nothing.
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `alpha`, `steps`, `restarts` or `momentum` is out of range, or `loss` is
        unknown.

    Example:
        >>> from robustvox.attacks import Annealed, tiny_case
        >>> model, images, labels = tiny_case()
        >>> adversarial = Annealed(eps=4 / 255, steps=20)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    steps: int = 400
    momentum: float = 0.9

    def __post_init__(self) -> None:
        checks.budget("eps", self.eps)
        if self.alpha is None:
            object.__setattr__(self, "alpha", self.eps)
        super().__post_init__()
        checks.real("momentum", self.momentum, 0.0, hint="0.9 averages about ten gradients")

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def step_rule(self) -> StepRule:
        signs, taken = accumulated_signs(self.momentum), count()

        def shorter(gradient: Tensor) -> Tensor:
            return signs(gradient).mul_((1 + math.cos(math.pi * next(taken) / self.steps)) / 2)

        return shorter
