"""What decides a training run besides model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run besides model and data.

    Args:
        steps: optimizer steps.
        batch_size: windows per step.
        lr: peak learning rate of AdamW, reached after ``warmup`` of the steps, then cosine to zero.
        weight_decay: of AdamW.
        warmup: share of steps in [0, 1).
        ema: decay of the averaged weights that are kept, in [0, 1).
        foreground: share of windows centered on a labelled voxel.
        rotate: largest rotation in degrees, about every axis.
        turn: largest further rotation in degrees within the first two axes, for scans whose planes lie as the patient
            lay; 0 for none.
        scale: largest relative change of size.
        intensity: largest relative change of gain, and half of it as offset on [0, 1].
        gamma: largest exponent that intensities are raised to, at least 1; exponents are drawn evenly on a logarithmic
            scale between it and its inverse. 1 for none; for MRI, whose contrast no scanner shares with another.
        noise: largest standard deviation of added noise on [0, 1].
    """

    steps: int = 1000
    batch_size: int = 2
    lr: float = 2e-3
    weight_decay: float = 1e-5
    warmup: float = 0.05
    ema: float = 0.99
    foreground: float = 0.5
    rotate: float = 12.0
    turn: float = 0.0
    scale: float = 0.12
    intensity: float = 0.15
    gamma: float = 1.0
    noise: float = 0.02


@dataclass(frozen=True)
class Progress:
    """Reported after every step: the step (from 1), all steps, the loss, seconds so far."""

    step: int
    steps: int
    loss: float
    seconds: float


def learning_rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step, counted from 0."""
    warm = max(round(recipe.warmup * recipe.steps), 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(recipe.steps - warm, 1)))
