"""MI-FGSM: signed steps along the accumulated gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Sharing
from .sign_gradient import IterativeSign, StepRule
from .task import Objective, Task


@dataclass(frozen=True, kw_only=True)
class MIFGSM(LossAttack, IterativeSign):
    """Momentum iterative fast gradient sign method.

    Averages the gradients along the path, each scaled to unit L1 norm per sample, and steps along the sign of
    the average, from the clean volume: g_{t+1} = momentum * g_t + grad L / ||grad L||_1, x_{t+1} =
    clamp(x_t + alpha * sign(g_{t+1}), lo, hi), g_0 = 0, x_0 = x. The momentum carries the path over small bumps
    of the loss, which is meant to help transfer to other models. A sample whose gradient is zero coasts on
    what it has. With momentum 0 this is BIM. steps + 1 forwards, steps backwards.

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, arXiv 1710.06081.
    Differs from the source: `alpha` defaults to the step of the other iterative attacks (the source has
        eps / steps, so that steps in one direction end exactly on the edge of the ball); returns, per sample,
        the visited point with the lowest hard foreground Dice and not the last; the norm runs over all
        axes of a sample, of any rank; the default loss is the foreground soft Dice.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: step in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps, >= 0; 0 returns the clean volume.
        momentum: weight of the accumulated gradients against the new one, >= 0; 1 forgets nothing.
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `alpha`, `steps` or `momentum` is out of range, or `loss` is unknown.

    Example:
        >>> from robustvox.attacks import BIM, MIFGSM, tiny_case
        >>> without, plain = MIFGSM(momentum=0, steps=3), BIM(steps=3)
        >>> bool((without(*tiny_case()) == plain(*tiny_case())).all())
        True
    """

    sharing = Sharing.ANY_SHAPES

    momentum: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("momentum", self.momentum, 0.0, hint="The source uses 1.0")

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def step_rule(self) -> StepRule:
        return accumulated_signs(self.momentum)


def accumulated_signs(momentum: float) -> StepRule:
    """Signs of the gradients along a path, each scaled to unit L1 norm per sample; `momentum` weighs the past."""
    total: Tensor | float = 0.0

    def accumulate(gradient: Tensor) -> Tensor:
        nonlocal total
        # The mean in place of the sum scales every g by the number of voxels: the same signs, without
        # entries that underflow in a large volume. The floor keeps an all-zero gradient zero.
        size = gradient.abs().mean(list(range(1, gradient.ndim)), keepdim=True)
        total = momentum * total + gradient / size.clamp_min(torch.finfo(size.dtype).tiny)
        return total.sign()

    return accumulate
