"""The standard: several attacks on the same volume, and per volume the worst of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .apgd import APGD
from .base import Attack
from .sign_gradient import SignGradient
from .task import BestIterate, Task

_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Ensemble(SignGradient):
    eps: float = 8 / 255

    @property
    def min_classes(self) -> int:
        return max(member.min_classes for member in self.members())

    def members(self) -> tuple[Attack, ...]:
        """The attacks of the standard, in the order in which they run."""
        return (
            APGD(eps=self.eps, steps=_STEPS, loss="dice", reduce_radius=False),
            APGD(eps=self.eps, steps=_STEPS, loss="dice_ce", reduce_radius=False),
            APGD(eps=self.eps, steps=_STEPS, loss="js"),
        )

    def perturb(self, task: Task) -> Tensor:
        return worst_case(self.members(), task)


def worst_case(members: Sequence[Attack], task: Task) -> Tensor:
    """Run every member from the same seeds and keep, per sample, the result with the lowest metric.

    Whole results are compared, each evaluated as it would be returned: no voxel of one perturbation is ever
    combined with voxels of another. `task.on_step` sees one point per member.

    Args:
        members: attacks that fit the task.
        task: the batch under attack.

    Returns:
        (B, C, *spatial), per sample exactly what one of the members returns for it.
    """
    best = BestIterate(task, len(members) - 1)
    objective = task.objective("dice")
    for index, member in enumerate(members):
        # A new task starts its random streams afresh: the member draws what it would draw on its own.
        images = member.perturb(replace(task, on_step=None)).detach()
        with torch.no_grad():
            logits = task.logits(images)
            best.offer(images, logits, objective(logits, index))
    return best.images
