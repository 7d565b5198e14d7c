"""Training a copy on the victim's answers: hard labels by Dice and cross entropy, soft ones class-balanced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from robustvox.benchmark.train import (
    Progress,
    Recipe,
    _channels_last,
    _normalized_affine,
    _random_rotation,
    _schedule,
)


@dataclass(frozen=True, eq=False)
class Answer:
    """One volume as the thief will train on it, and what the victim said of it.

    Shape:
        image: ``(C, *spatial)`` float32 in [0, 1].
        target: ``(1, *spatial)`` int64 classes, or ``(K, *spatial)`` float32 probabilities.
    """

    id: str
    image: Tensor
    target: Tensor

    @property
    def soft(self) -> bool:
        """Whether the victim told probabilities."""
        return self.target.is_floating_point()


class AnswerLoss(nn.Module):
    """What the copy minimizes, (B, K, *spatial) logits against a batch of targets.

    Labels: DiceCE as in training on true labels. Probabilities: soft Dice of the foreground plus cross entropy in
    which every class weighs the same in all, however small it is; plain voxel KL drowns a foreground of 2%.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hard = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
        self._overlap = DiceLoss(softmax=True, soft_label=True, include_background=False, smooth_nr=1e-6, smooth_dr=1e-6)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not target.is_floating_point():
            return self._hard(logits, target)
        mass = target.sum([0, *range(2, target.ndim)])
        # A class that the victim hardly names would otherwise weigh without limit.
        weight = 1 / mass.clamp_min(1e-3 * float(mass.sum()))
        entropy = -(target * logits.log_softmax(1)).sum([0, *range(2, target.ndim)])
        return self._overlap(logits, target) + (weight * entropy).sum() / len(weight)


def fit(
    network: nn.Module,
    answers: Sequence[Answer],
    roi_size: Sequence[int],
    recipe: Recipe,
    *,
    seed: int,
    on_step: Callable[[Progress], None] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Train ``network`` in place; the averaged weights at the end and those of half way, both in eval mode.

    The two differ where the copy is not sure, which a choice of the next queries can use.
    """
    device = next(network.parameters()).device
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    half = averaged
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, recipe))
    criterion = AnswerLoss()
    layout = _channels_last(len(roi_size))
    network.train()
    for step, (images, targets) in enumerate(windows(answers, roi_size, recipe, seed), start=1):
        images = images.to(device).contiguous(memory_format=layout)
        loss = criterion(network(images), targets.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _average(averaged, network, min(recipe.ema, step / (step + 10)))
        if step == recipe.steps // 2:
            half = copy.deepcopy(averaged)
        if on_step is not None:
            on_step(Progress(step, recipe.steps, float(loss.detach()), 0.0))
    return averaged, half


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def windows(
    answers: Sequence[Answer], roi_size: Sequence[int], recipe: Recipe, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of augmented windows: images ``(B, C, *roi)``, targets ``(B, 1 or K, *roi)``."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(recipe.steps):
        batch = []
        for _ in range(recipe.batch_size):
            order = order or list(rng.permutation(len(answers)))
            batch.append(_window(answers[order.pop()], roi_size, recipe, rng))
        yield torch.stack([image for image, _ in batch]), torch.stack([target for _, target in batch])


def _window(
    answer: Answer, roi_size: Sequence[int], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One randomly rotated, scaled and recolored window around a voxel, by preference one of the foreground."""
    shape = np.array(answer.image.shape[1:], dtype=float)
    roi = np.array(roi_size, dtype=float)
    classes = answer.target.argmax(0) if answer.soft else answer.target[0]
    voxels = torch.nonzero(classes).numpy()
    if rng.random() < recipe.foreground and len(voxels):
        center = voxels[rng.integers(len(voxels))].astype(float)
    else:
        center = rng.random(len(shape)) * shape
    slack = np.abs(shape - roi) / 2
    center = np.clip(center, shape / 2 - slack, shape / 2 + slack)
    matrix = _random_rotation(len(shape), recipe.rotate, rng) * (1 + rng.uniform(-recipe.scale, recipe.scale))
    theta = torch.from_numpy(_normalized_affine(matrix, center, shape, roi)).float()[None]
    grid = F.affine_grid(theta, [1, 1, *roi_size], align_corners=False)
    image = F.grid_sample(answer.image[None], grid, mode="bilinear", align_corners=False)[0]
    target = answer.target.float()[None]
    target = F.grid_sample(target, grid, mode="bilinear" if answer.soft else "nearest", align_corners=False)[0]
    if answer.soft:
        # Beyond the volume there is background.
        target[0] += 1 - target.sum(0)
    gain = 1 + rng.uniform(-recipe.intensity, recipe.intensity)
    offset = rng.uniform(-recipe.intensity, recipe.intensity) / 2
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * rng.uniform(0, recipe.noise)
    return (image * gain + offset + noise).clamp_(0, 1), target if answer.soft else target.long()
