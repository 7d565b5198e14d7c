"""APGD: projected gradient ascent that finds its own step sizes, per sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Sharing, ball
from .sign_gradient import SignGradient
from .task import BestIterate, Objective, Task, choose, input_gradient

_MOMENTUM = 0.75  # weight of the new step against the previous displacement
_RISE_SHARE = 0.75  # a window in which the loss rose less often than this oscillates
_STAGES = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))  # (radius / eps, share of the steps)


@dataclass(frozen=True, kw_only=True)
class APGD(LossAttack, SignGradient):
    """Auto-PGD: projected gradient ascent with momentum and step sizes that halve by themselves.

    One step is z = P(x_t + eta sign(grad L)), x_{t+1} = P(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1})), with P
    the projection on the L-inf ball and [0, 1] and eta = 2 radius at first. At fixed checkpoints (see
    `checkpoints`) a sample whose loss rose in at most three quarters of the last steps, or that made no
    progress since its last checkpoint, halves eta and restarts from its highest loss. With `reduce_radius`
    the first 30% of the steps run in a ball of 2 eps and the next 30% in 1.5 eps, each stage handing its best
    point, projected, to the next: wide balls find regions that the narrow one cannot reach. Only points
    inside eps are ever returned. Per restart steps + 1 forwards, steps backwards.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
        parameter-free attacks", ICML 2020, arXiv 2003.01690; radii and segmentation losses from Croce et al.,
        "Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation Models" (SEA), ECCV
        2024, arXiv 2306.12941.
    Differs from the source: returns, per sample, the visited point inside eps with the lowest hard foreground
        Dice; the first window does not count a comparison with a point that was never evaluated; a stage
        starts from the projected point of lowest Dice (AutoAttack: of highest loss); the random start is not
        stretched to the edge of the ball; the default loss is the foreground soft Dice.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].
        steps: gradient steps of one run, >= 0; below 50 the step sizes adapt too fast, below 10 a warning says
            so.
        loss: key of `losses.LOSSES`.
        restarts: independent random starts, >= 1.
        reduce_radius: run in 2 eps and 1.5 eps first.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if a hyper-parameter is out of range, or loss="dlr" meets fewer than three classes.

    Example:
        >>> from robustvox.attacks import APGD, tiny_case
        >>> model, images, labels = tiny_case(num_classes=3)
        >>> adversarial = APGD(steps=10, loss="js")(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    steps: int = 100
    restarts: int = 1
    reduce_radius: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("steps", self.steps, 0)
        checks.whole("restarts", self.restarts, 1)
        checks.flag("reduce_radius", self.reduce_radius)
        if 0 < self.steps < 10:
            warnings.warn(
                f"APGD: steps = {self.steps} leaves no time for its step sizes to adapt. Use 50 or more, or PGD",
                UserWarning,
                stacklevel=3,
            )

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def stages(self) -> Iterator[tuple[float, int]]:
        """(radius, gradient steps) of every stage, the last in the ball of `eps`."""
        if not self.reduce_radius:
            yield self.eps, self.steps
            return
        early = 0
        for factor, share in _STAGES[:-1]:
            count = int(share * self.steps)
            early += count
            if count:
                yield min(factor * self.eps, 1.0), count
        yield self.eps, self.steps - early

    def perturb(self, task: Task) -> Tensor:
        best = BestIterate(task, self.restarts * (self.steps + 1) - 1)
        for _ in range(self.restarts):
            self._run(task, best)
        return best.images

    def _run(self, task: Task, best: BestIterate) -> None:
        stages = list(self.stages())
        bounds = ball(task.images, stages[0][0])
        images = torch.add(task.images, task.noise(torch.rand) * 2 - 1, alpha=stages[0][0]).clamp_(*bounds)
        for radius, steps in stages[:-1]:
            # A stage of its own: its points leave the final ball, so they are shown but cannot be returned.
            stage = BestIterate(task, steps, observed=False)
            self._climb(task, images, radius, steps, (stage, best))
            images = stage.images
        radius, steps = stages[-1]
        bounds = ball(task.images, radius)
        last = self._climb(task, images.clamp(*bounds), radius, steps, (best,))
        with torch.no_grad():
            logits = task.logits(last)
            best.offer(last, logits, self.objective(task)(logits, self.steps))

    def _climb(
        self, task: Task, images: Tensor, radius: float, steps: int, watchers: tuple[BestIterate, ...]
    ) -> Tensor:
        """`steps` gradient steps in the ball of `radius`; the point after the last one, not yet evaluated.

        The first watcher keeps points, the others only observe.
        """
        objective, bounds = self.objective(task), ball(task.images, radius)
        images = images.clamp(*bounds)
        state = StepSizes(task, radius, steps)
        older = images
        for step in range(steps):
            images = images.detach().requires_grad_()
            logits = task.logits(images)
            loss = objective(logits, step)
            gradient = input_gradient(loss, images)
            images, loss = images.detach(), loss.detach()
            for watcher in watchers:
                watcher.offer(images, logits, loss, keep=watcher is watchers[0])
            here, gradient = state.update(step, images, gradient, loss)
            moved = (here + state.eta * gradient.sign()).clamp_(*bounds)
            if step > 0:
                moved = torch.lerp(here - older, moved - here, _MOMENTUM).add_(here).clamp_(*bounds)
            older, images = here, moved
        return images


class StepSizes:
    """Step size, highest loss and its point, per sample; one object per stage.

    Args:
        task: the batch under attack.
        radius: of the ball; the first step is twice that.
        steps: gradient steps of the stage.
    """

    def __init__(self, task: Task, radius: float, steps: int) -> None:
        batch, device = task.images.shape[0], task.images.device
        self.eta = torch.full(
            (batch, *[1] * (task.images.ndim - 1)), 2 * radius, device=device, dtype=task.images.dtype
        )
        self._due = list(checkpoints(steps))
        self._since, self._rises = 0, torch.zeros(batch, device=device)
        self._halved = torch.ones(batch, dtype=torch.bool, device=device)
        self._previous = torch.full((batch,), torch.inf, device=device)
        self._highest = self._previous.neg()
        self._at_checkpoint = self._highest
        self._images, self._gradient = task.images, torch.zeros_like(task.images)

    def update(self, step: int, images: Tensor, gradient: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one evaluated point; the point and gradient from which to step on."""
        higher = loss > self._highest
        self._highest = torch.where(higher, loss, self._highest)
        self._images = choose(higher, images, self._images)
        self._gradient = choose(higher, gradient, self._gradient)
        self._rises = self._rises + (loss > self._previous)
        self._previous = loss
        if not self._due or step < self._due[0]:
            return images, gradient
        window = self._due.pop(0) - self._since
        self._since += window
        stuck = ~self._halved & (self._highest <= self._at_checkpoint)
        halve = (self._rises <= _RISE_SHARE * window) | stuck
        self._halved, self._at_checkpoint = halve, self._highest
        self._rises = torch.zeros_like(self._rises)
        self.eta = choose(halve, self.eta / 2, self.eta)
        return choose(halve, self._images, images), choose(halve, self._gradient, gradient)


def checkpoints(steps: int) -> Iterator[int]:
    """Steps after which APGD may halve its step size, below `steps`.

    The first window lasts 22% of the steps, each later one 3% less, down to 6%; never less than one step.
    For 100 steps: 22, 41, 57, 70, 80, 87, 93, 99.

    Args:
        steps: gradient steps of the run, >= 0.

    Returns:
        Increasing numbers in [1, steps).
    """
    window, at = max(int(0.22 * steps), 1), 0
    while (at := at + window) < steps:
        yield at
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
