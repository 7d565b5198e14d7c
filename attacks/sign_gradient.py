"""The sign-gradient family: one loop, from which attacks differ in start, step rule and objective.

    x_0 = start,   x_{t+1} = clamp(x_t + alpha * rule(grad_x L(f(x_t), y)), lo, hi)

with [lo, hi] = [max(x - eps, 0), min(x + eps, 1)]. A new member overrides `objective` (loss or detached
per-voxel weight map), `step_rule` (e.g. momentum) or `start`; `ascend` stays as it is.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .base import Attack, ball
from .losses import LOSSES, cross_entropy_map, voxel_mean
from .task import BestIterate, StepInfo, Task, input_gradient

#: (logits, step index) -> loss per sample (B,), to be increased
Objective = Callable[[Tensor, int], Tensor]
#: gradient -> direction with entries in [-1, 1]; may keep state, lives for one run
StepRule = Callable[[Tensor], Tensor]
Bounds = tuple[Tensor, Tensor]


def ascend(
    task: Task,
    start: Tensor,
    bounds: Bounds,
    *,
    alpha: float,
    steps: int,
    objective: Objective,
    rule: StepRule,
    best: BestIterate,
) -> None:
    """Run one trajectory of `steps` steps and offer its steps + 1 points to `best`.

    Costs steps + 1 forwards and steps backwards: tracking reuses the logits of the attack, and
    the last point gets one closing forward without gradient.
    """
    images = start
    for step in range(steps):
        images.requires_grad_()
        logits = task.logits(images)
        loss = objective(logits, step)
        gradient = input_gradient(loss, images)
        images = images.detach()
        best.offer(images, logits, loss)
        images = torch.add(images, rule(gradient), alpha=alpha).clamp_(*bounds)
    with torch.no_grad():
        logits = task.logits(images)
        best.offer(images, logits, objective(logits, steps))


def named_objective(task: Task, loss: str) -> Objective:
    """The objective that is one of `LOSSES` in every step."""
    return lambda logits, _: LOSSES[loss](logits, task.labels, task.mask)


@dataclass(frozen=True, kw_only=True)
class SignGradient(Attack):
    """Common ground: an L-inf ball of radius `eps` around the clean images."""

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        checks.budget("eps", self.eps)

    @property
    def radius(self) -> float:
        return self.eps

    @abstractmethod
    def objective(self, task: Task) -> Objective:
        """What the attack increases."""


@dataclass(frozen=True, kw_only=True)
class FGSM(SignGradient):
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
        >>> import torch
        >>> from robustvox.attacks import FGSM
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> adversarial = FGSM(eps=4 / 255)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 4 / 255)
        True
    """

    loss: str = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("loss", self.loss, LOSSES)

    def objective(self, task: Task) -> Objective:
        return named_objective(task, self.loss)

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
class IterativeSign(SignGradient):
    """Common ground of the iterative members; see `ascend` for the rule and its cost.

    `alpha=None` becomes max(eps / 4, 2.5 * eps / steps), at most eps, at construction. On the hippocampus unet
    at 8/255 and 20 steps, 12 patients, eps/4 leaves Dice 0.601 and 0.32 eps 0.593
    (`tests/performance/strength.py`); eps/8 was weaker than both on 4 patients. Short runs must still reach the
    edge of the ball.
    """

    alpha: float | None = None
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 0)
        if self.alpha is None:
            object.__setattr__(self, "alpha", self.eps * max(1 / 4, min(2.5 / max(self.steps, 1), 1.0)))
        checks.budget("alpha", self.alpha)
        reach = self.steps * self.step_size
        if self.steps > 0 and reach < self.eps * (1 - 1e-9):
            warnings.warn(
                f"{type(self).__name__}: steps * alpha = {reach:g} < eps = {self.eps:g}. "
                "The attack cannot reach the edge of its ball: raise steps or alpha",
                UserWarning,
                stacklevel=self._warn_depth(),
            )

    def _warn_depth(self) -> int:
        """Frames from here to the caller's constructor: __init__ plus one __post_init__ per class."""
        depth = sum("__post_init__" in vars(cls) for cls in type(self).__mro__) - 1
        return 2 + depth

    @property
    def step_size(self) -> float:
        """`alpha` after its default was resolved."""
        return 0.0 if self.alpha is None else self.alpha

    def step_rule(self) -> StepRule:
        """A fresh step rule for one run."""
        return torch.sign

    def start(self, task: Task, bounds: Bounds) -> Tensor:
        """First point of one run; called once per restart."""
        return task.images.clamp(*bounds)

    def runs(self) -> int:
        """How many trajectories share the best iterate."""
        return 1

    def perturb(self, task: Task) -> Tensor:
        bounds = ball(task.images, self.eps)
        best = BestIterate(task, self.runs() * (self.steps + 1) - 1)
        for _ in range(self.runs()):
            start = self.start(task, bounds)
            ascend(
                task,
                start,
                bounds,
                alpha=self.step_size,
                steps=self.steps,
                objective=self.objective(task),
                rule=self.step_rule(),
                best=best,
            )
        return best.images


@dataclass(frozen=True, kw_only=True)
class BIM(IterativeSign):
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
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import torch
        >>> from robustvox.attacks import BIM
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> BIM(steps=5)(model, images, labels).shape
        torch.Size([1, 1, 8, 9, 10])
    """

    loss: str = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("loss", self.loss, LOSSES)

    def objective(self, task: Task) -> Objective:
        return named_objective(task, self.loss)


@dataclass(frozen=True, kw_only=True)
class RandomStartSign(IterativeSign):
    """Common ground of the members that start at random in the ball and may restart."""

    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("random_start", self.random_start)
        checks.whole("restarts", self.restarts, 1)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts: expected 1 without random start, got {self.restarts}. Without random_start=True "
                "every restart repeats the first"
            )

    def start(self, task: Task, bounds: Bounds) -> Tensor:
        if not self.random_start:
            return super().start(task, bounds)
        return torch.add(task.images, task.noise(torch.rand) * 2 - 1, alpha=self.eps).clamp_(*bounds)

    def runs(self) -> int:
        return self.restarts


@dataclass(frozen=True, kw_only=True)
class PGD(RandomStartSign):
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
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import torch
        >>> from robustvox.attacks import PGD
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(2, 1, 8, 9, 10), torch.ones(2, 1, 8, 9, 10, dtype=torch.int64)
        >>> attack = PGD(eps=8 / 255, steps=5)
        >>> adversarial = attack(model, images, labels, generator=torch.Generator().manual_seed(7))
        >>> bool((adversarial - images).abs().max() <= attack.eps)
        True
    """

    loss: str = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("loss", self.loss, LOSSES)

    def objective(self, task: Task) -> Objective:
        return named_objective(task, self.loss)


@dataclass(frozen=True, kw_only=True)
class CosPGD(RandomStartSign):
    """PGD on cross entropy that is weighted, voxel by voxel, by how right the model still is.

    Voxels whose probability vector p still points at the reference keep their weight, lost ones fade, so
    the budget goes where it can still flip something: L = mean_j w_j * CE_j with w_j = cos(p_j,
    onehot(y_j)) = p_{j,y} / ||p_j||_2, a constant for the gradient. Start, steps, cost and best iterate as
    in `PGD`.

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
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import torch
        >>> from robustvox.attacks import CosPGD
        >>> model = torch.nn.Conv3d(1, 3, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> adversarial = CosPGD(steps=5)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255)
        True
    """

    def objective(self, task: Task) -> Objective:
        def weighted(logits: Tensor, _: int) -> Tensor:
            entropy = cross_entropy_map(logits, task.labels)
            return voxel_mean(cosine_weight(logits, task.labels) * entropy, task.mask)

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
    scaled = (logits - logits.max(1, keepdim=True).values).exp_()
    correct = scaled.gather(1, labels)[:, 0]
    return correct / scaled.square_().sum(1).sqrt_()
