"""PGD: projected gradient ascent from a random start."""

from __future__ import annotations

from dataclasses import dataclass

from .base import LossAttack, Sharing
from .sign_gradient import RandomStartSign
from .task import Objective, Task


@dataclass(frozen=True, kw_only=True)
class PGD(LossAttack, RandomStartSign):
    """Projected gradient ascent in the L-inf ball.

    Starts at a random point of the ball and repeats signed gradient steps, each clipped to the ball and to
    [0, 1]: x_0 = clamp(x + U(-eps, eps), 0, 1), x_{t+1} = clamp(x_t + alpha * sign(grad L), lo, hi). Per
    restart steps + 1 forwards and steps backwards.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv
        1706.06083.
    Differs from the source: returns, per sample, the visited point of all restarts with the lowest hard
        foreground Dice (ties: the highest loss) and not the last; the default loss is the foreground
        soft Dice, the reported metric made differentiable (published attacks on volumes use DiceCE).

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        alpha: step in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps, >= 0; 0 returns the start point.
        random_start: begin at a uniform random point of the ball; False is BIM.
        restarts: independent random starts, >= 1.
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps`, `alpha`, `steps` or `restarts` is out of range, or `loss` is unknown.

    Example:
        >>> import torch
        >>> from robustvox.attacks import PGD, tiny_case
        >>> model, images, labels = tiny_case(batch=2)
        >>> seeded = torch.Generator().manual_seed(7)
        >>> adversarial = PGD(eps=8 / 255, steps=5)(model, images, labels, generator=seeded)
        >>> bool((adversarial - images).abs().max() <= 8 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)
