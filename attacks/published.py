"""Attacks as the published benchmark ran them, for side-by-side comparison with its tables; not for use.

`cospgd_mean` and ``iterate=last`` work in any protocol, beside the attacks they are defects of. Neither is a
member of `ATTACKS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import Attack, StepInfo
from .base import Sharing
from .losses import dice_ce, voxel_mean
from .sign_gradient import RandomStartSign
from .task import Objective, OnStep, Task


@dataclass(frozen=True, kw_only=True)
class MeanCosPGD(RandomStartSign):
    """CosPGD as published for volumes: one mean cosine times the loss, instead of a weight per voxel.

    L = DiceCE(f(x), y) * mean_j cos(p_j, onehot(y_j)), with the gradient of both factors. The mean is dominated by
    background and near 1, so no voxel is preferred; and since the cosine is not a constant, its gradient leads
    back to the reference. Start, steps, cost and best iterate as in `PGD`.

    Source: code HashmatShadab/Robustness-of-Volumetric-Medical-Segmentation-Models @d533554, arXiv 2406.08486;
        the same in asif-hanif/saa.
    Differs from the source: the mean is taken per sample, where the source couples the tiles of a mini-batch.

    Args:
        eps, alpha, steps, random_start, restarts: as in `CosPGD`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Raises: ValueError: if a hyper-parameter is out of range.

    Example:
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> adversarial = MeanCosPGD(steps=5)(torch.nn.Conv3d(1, 2, 3, padding=1), images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    def objective(self, task: Task) -> Objective:
        def weighted(logits: Tensor, _: int) -> Tensor:
            probabilities = logits.softmax(1)
            cosine = probabilities.gather(1, task.aim)[:, 0] / probabilities.norm(dim=1)
            loss = dice_ce(logits, task.aim, task.mask) * voxel_mean(cosine, task.mask)
            return task.direction * loss

        return weighted


@dataclass(frozen=True, kw_only=True)
class LastIterate(Attack):
    """An attack that returns the last point it visited with a finite loss, not the best one.

    Source: code of arXiv 2406.08486 and 2307.07269, whose attacks all return the last iterate.
    Differs from the source: points with a loss that is not finite do not count; VAFA's point is the last one that
        was evaluated, one update later than theirs.

    Args:
        attack: an attack that keeps its best iterate, such as PGD or VAFA.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Raises: ValueError: if ``attack`` is no attack, or one of this kind already.

    Example:
        >>> from robustvox.attacks import PGD
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> adversarial = LastIterate(attack=PGD(steps=5))(torch.nn.Conv3d(1, 2, 3, padding=1), images, labels)
        >>> bool((adversarial - images).abs().max() <= 8 / 255)
        True
    """

    sharing = Sharing.ANY_SHAPES

    attack: Attack

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.attack, Attack) or isinstance(self.attack, LastIterate):
            raise ValueError(f"attack: expected an attack, got {type(self.attack).__name__}")

    @property
    def shares(self) -> Sharing:
        return min(super().shares, self.attack.shares)

    @property
    def min_classes(self) -> int:
        return self.attack.min_classes

    @property
    def radius(self) -> float | None:
        return self.attack.radius

    def at_spacing(self, spacing_mm: Sequence[float]) -> LastIterate:
        return replace(self, attack=self.attack.at_spacing(spacing_mm))

    def accept_targets(
        self, targets: Tensor | None, images: Tensor, labels: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        return self.attack.accept_targets(targets, images, labels, mask)

    def perturb(self, task: Task) -> Tensor:
        return self.attack.perturb(_LaterIsBetter(**task.given()))


class _LaterIsBetter(Task):
    """A task whose metric falls from point to point, so that the best iterate is the last; observers see the real."""

    _real: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        self._points = 0
        if self.on_step is not None:
            self.on_step = self._truthful(self.on_step)

    def metric(self, logits: Tensor) -> Tensor:
        self._real = super().metric(logits)
        self._points += 1
        return torch.full_like(self._real, -self._points)

    def _truthful(self, observer: OnStep) -> OnStep:
        def observe(info: StepInfo) -> None:
            observer(replace(info, metric=self._real))

        return observe
