"""The standard: several attacks on the same volume, and per volume the worst of their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .annealed import Annealed
from .apgd import APGD
from .base import Attack, LinfAttack, Sharing
from .pgd import PGD
from .task import BestIterate, Task

_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Ensemble(LinfAttack):
    """The standard of this suite: five attacks on every volume, of which the worst result counts.

    Runs APGD on the soft Dice in shrinking balls and in the ball itself, on DiceCE and on the Jensen-Shannon
    divergence, and PGD on the soft Dice, 100 steps each, all from the same random start, and returns per
    sample i

        x'_i = the member's result with the lowest hard foreground Dice(f(x_i^m), y_i), m = 1..5

    whole: perturbations are never mixed voxel by voxel. Which losses and which starts win differs from volume
    to volume and from model to model; the minimum says more than any one of them. It has no
    parameter but the budget; a changed list of members would be a new attack with a new name. 510 forwards and
    500 backwards; `on_step` sees one point per member.

    Source: the idea of Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", ICML 2020, arXiv 2003.01690, and of its segmentation form SEA, Croce et
        al., ECCV 2024, arXiv 2306.12941.
    Differs from the source: the losses follow the reported metric, Dice over organs, in place of pixel accuracy;
        the worst case is per volume, by the same Dice that the tables report; all members are white-box (use
        `Square` to probe for masked gradients); 100 steps are enough, doubling them changes the mean by less
        than 0.005 (`tests/performance/strength.py`).

    Args:
        eps: L-inf radius in intensity units, in [0, 1].

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps` is not in [0, 1].

    Example:
        >>> from robustvox.attacks import Ensemble, tiny_case
        >>> model, images, labels = tiny_case()
        >>> adversarial = Ensemble(eps=4 / 255)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    @property
    def shares(self) -> Sharing:
        return min(super().shares, *(member.shares for member in self.members()))

    @property
    def min_classes(self) -> int:
        return max(member.min_classes for member in self.members())

    def members(self) -> tuple[Attack, ...]:
        """The attacks of the standard, in the order in which they run."""
        return (
            APGD(eps=self.eps, steps=_STEPS, loss="dice"),
            APGD(eps=self.eps, steps=_STEPS, loss="dice", reduce_radius=False),
            APGD(eps=self.eps, steps=_STEPS, loss="dice_ce"),
            APGD(eps=self.eps, steps=_STEPS, loss="js"),
            PGD(eps=self.eps, steps=_STEPS, loss="dice"),
        )

    def perturb(self, task: Task) -> Tensor:
        return worst_case(self.members(), task)


@dataclass(frozen=True, kw_only=True)
class Ensemble2(Ensemble):
    """The ensemble and a long annealed run on every volume, of which the worst result counts.

    Runs the five members of `Ensemble` and then `Annealed` on the soft Dice, 400 steps of averaged gradients whose
    length falls from eps to nothing, all from the same random start, and returns per sample i

        x'_i = the member's result with the lowest hard foreground Dice(f(x_i^m), y_i), m = 1..6

    whole. From one generator it is never weaker than `Ensemble`. It has no parameter but the budget. 911 forwards and
    900 backwards; `on_step` sees one point per member.

    Source: as `Ensemble`: Croce and Hein, ICML 2020, arXiv 2003.01690, and SEA, Croce et al., ECCV 2024, arXiv
        2306.12941; the sixth member from Dong et al., CVPR 2018, arXiv 1710.06081.
    Differs from the source: as `Ensemble`, and by its sixth member.

    Args:
        eps: L-inf radius in intensity units, in [0, 1].

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `eps` is not in [0, 1].

    Example:
        >>> from robustvox.attacks import Ensemble2, tiny_case
        >>> model, images, labels = tiny_case()
        >>> adversarial = Ensemble2(eps=4 / 255)(model, images, labels)
        >>> bool((adversarial - images).abs().max() <= 4 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    def members(self) -> tuple[Attack, ...]:
        """The attacks, in the order in which they run."""
        return (*super().members(), Annealed(eps=self.eps, steps=4 * _STEPS, loss="dice"))


def worst_case(members: Sequence[Attack], task: Task) -> Tensor:
    """Run every member from the same seeds and keep, per sample, the result with the lowest metric.

    Whole results are compared, each evaluated as it would be returned: no voxel of one perturbation is ever
    combined with voxels of another. `task.on_step` sees one point per member, from step 1 on.

    Args:
        members: attacks that fit the task.
        task: the batch under attack.

    Returns:
        (B, C, *spatial), per sample exactly what one of the members returns for it.
    """
    best = BestIterate(task, len(members), first=1)
    objective = task.objective("dice")
    for member in members:
        # A new task starts its random streams afresh: the member draws what it would draw on its own.
        images = member.perturb(task.afresh()).detach()
        with torch.no_grad():
            logits = task.logits(images)
            best.offer(images, logits, objective(logits, 0))
    return best.images
