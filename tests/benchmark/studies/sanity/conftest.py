"""Networks and attacks whose defects are known, and cases on which each check takes a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustvox.attacks import BIM, PGD, Attack
from robustvox.benchmark.studies.sanity import Result, run_checks
from robustvox.datasets import IntensityWindow, Volume

LEVELS = (0.5, 0.4, 0.6)


class Nearest(nn.Module):
    """Smooths, then gives every voxel the class with the nearest intensity; gradients are exact and useful."""

    def __init__(self, width: int = 3, scale: float = 300.0, levels=LEVELS) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.levels = nn.Parameter(torch.tensor(levels).view(1, -1, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.width > 1:
            images = F.avg_pool3d(images, self.width, 1, self.width // 2, count_include_pad=False)
        return -self.scale * (images - self.levels) ** 2


class Masked(Nearest):
    """Quantizes its input: every gradient is exactly zero, the network as vulnerable as before."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.round(images * 128) / 128)


class Restless(Nearest):
    """Dropout that stays on."""

    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(super().forward(images), 0.3, training=True)


class Probabilities(Nearest):
    """Ends with a softmax."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(super().forward(images), 1)


@dataclass(frozen=True, kw_only=True)
class Downhill(BIM):
    """BIM with the wrong sign."""

    def objective(self, task):
        uphill = super().objective(task)
        return lambda logits, step: -uphill(logits, step)


@pytest.fixture
def volumes() -> Callable[..., list[Volume]]:
    """Seeded cases with two organs: ``(count, growing) -> volumes``; growing ones differ in shape."""

    def make(count: int = 2, growing: bool = False) -> list[Volume]:
        rng, cases = np.random.default_rng(0), []
        for index in range(count):
            label = np.zeros((10 + index * growing, 11, 9), np.int64)
            label[2:5, 2:9, 2:7] = 1
            label[5:8, 2:9, 2:7] = 2
            image = np.asarray(LEVELS)[label] + rng.normal(0, 0.01, label.shape)
            cases.append(
                Volume(
                    id=f"case_{index}",
                    image=image.astype(np.float32)[None],
                    label=label,
                    spacing_mm=(1.0, 1.0, 2.0),
                    affine=np.diag([1.0, 1.0, 2.0, 1.0]),
                    window=IntensityWindow(0.0, 1.0),
                )
            )
        return cases

    return make


@pytest.fixture
def strong() -> PGD:
    """An attack that works."""
    return PGD(eps=24 / 255, steps=6)


@pytest.fixture
def outcome(volumes, strong) -> Callable[..., Result]:
    """The result of one check: ``(id, model, attack, **options) -> result``; the defaults have no defect."""

    def run(id: str, model: nn.Module | None = None, attack: Attack | None = None, **options) -> Result:
        cases = options.pop("cases", None) or volumes()
        options = {"num_classes": 3, "queries": 60} | options
        (result,) = run_checks(model or Nearest(), attack or strong, cases, only=id, **options)
        return result

    return run


@pytest.fixture
def controls() -> SimpleNamespace:
    """The classes above, which tests cannot import."""
    return SimpleNamespace(
        Nearest=Nearest, Masked=Masked, Restless=Restless, Probabilities=Probabilities, Downhill=Downhill
    )
