"""The attack inside TRADES: it moves the prediction away from the clean one and never sees a label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustvox.attacks import Task, input_gradient
from robustvox.attacks.sign_gradient import Bounds, IterativeSign
from robustvox.attacks.task import Objective

from .losses import divergence

_START = 1e-3  # where the divergence has no gradient, at the clean image, it does not start


@dataclass(frozen=True, kw_only=True)
class Consistency(IterativeSign):
    """PGD on KL(f(x) || f(x')), from x + 0.001 N(0, 1).

    Source: Zhang et al., ICML 2019, arXiv 1901.08573.

    Like the source, and unlike the attacks of the registry, it returns the last point and not the one with the lowest
    Dice: what the loss of TRADES adds is the divergence itself. steps + 1 forwards, steps backwards.
    """

    def start(self, task: Task, bounds: Bounds) -> Tensor:
        return (task.images + _START * task.noise(torch.randn)).clamp_(*bounds)

    def objective(self, task: Task) -> Objective:
        with torch.no_grad():
            clean = task.logits(task.images)
        return lambda logits, _: divergence(clean, logits, task.mask)

    def perturb(self, task: Task) -> Tensor:
        bounds, objective = self.bounds(task), self.objective(task)
        images = self.start(task, bounds)
        for step in range(self.steps):
            images.requires_grad_()
            gradient = input_gradient(objective(task.logits(images), step), images)
            images = torch.add(images.detach(), gradient.sign(), alpha=self.step_size).clamp_(*bounds)
        return images
