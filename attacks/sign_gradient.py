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
from .base import LinfAttack, ball
from .task import BestIterate, Objective, Task, input_gradient

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


@dataclass(frozen=True, kw_only=True)
class SignGradient(LinfAttack):
    """Common ground: an objective to climb inside an L-inf ball around the clean images."""

    @abstractmethod
    def objective(self, task: Task) -> Objective:
        """What the attack increases."""


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
        order = type(self).__mro__
        below = order[: order.index(IterativeSign)]
        return 3 + sum("__post_init__" in vars(cls) for cls in below)

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

    def bounds(self, task: Task) -> Bounds:
        """Lowest and highest value of every voxel; equal to its own value where it must not change."""
        return ball(task.images, self.eps)

    def perturb(self, task: Task) -> Tensor:
        bounds = self.bounds(task)
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
