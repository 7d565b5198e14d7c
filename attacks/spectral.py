"""The frequency family: one loop over signed steps on one entry per coefficient of a blockwise DCT.

A member decides what an entry does to its coefficient (`decode`) and where it may go (`update`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ssim import SSIM
from .task import BestIterate, Task, input_gradient

#: (entries, step) -> the volume as the model will see it
Decode = Callable[[Tensor, int], Tensor]
#: (entries, gradient) -> the next entries; may write to both
Update = Callable[[Tensor, Tensor], Tensor]


def climb(
    task: Task,
    entries: Tensor,
    *,
    steps: int,
    decode: Decode,
    update: Update,
    loss: str,
    loss_weight: float = 1.0,
    ssim_weight: float,
) -> Tensor:
    """Increase loss_weight * L(f(x'), y) - ssim_weight * (1 - SSIM(x, x')) over the entries.

    Targeted, only L turns its sign: the volume stays similar either way. Costs steps + 1 forwards and steps
    backwards.

    Returns:
        The volume of the best evaluated entries per sample.
    """
    objective = task.objective(loss)
    similarity = SSIM(task.images) if ssim_weight > 0 else None

    def value(images: Tensor, logits: Tensor) -> Tensor:
        gain = objective(logits, 0)
        gain = gain if loss_weight == 1 else loss_weight * gain
        return gain if similarity is None else torch.sub(gain, 1 - similarity(images), alpha=ssim_weight)

    best = BestIterate(task, steps)
    for step in range(steps):
        entries.requires_grad_()
        images = decode(entries, step)
        logits = task.logits(images)
        reached = value(images, logits)
        gradient = input_gradient(reached, entries)
        best.offer(images, logits, reached)
        entries = update(entries.detach(), gradient)
    with torch.no_grad():
        images = decode(entries, steps)
        logits = task.logits(images)
        best.offer(images, logits, value(images, logits))
    return best.images
