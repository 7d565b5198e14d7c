"""Small nets and cases that every attack test builds on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustvox.attacks import ATTACKS, Attack


class Net(nn.Module):
    """A small segmentation net that counts its forwards and its backwards."""

    def __init__(
        self, channels: int, classes: int, rank: int, *, pointwise: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
        norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[rank]
        if pointwise:
            layers = [conv(channels, 6, 1), nn.Tanh(), conv(6, classes, 1)]
        else:
            layers = [
                conv(channels, 6, 3, padding=1),
                norm(6, affine=True),
                nn.LeakyReLU(0.1),
                conv(6, classes, 1),
            ]
        self.body = nn.Sequential(*layers).to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        logits = self.body(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, _: Tensor) -> None:
        self.backwards += 1


@dataclass
class Case:
    model: Net
    images: Tensor
    labels: Tensor

    def __iter__(self) -> Any:
        return iter((self.model, self.images, self.labels))


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Build a seeded net with images and labels; labels agree with the net on most voxels."""

    def make(
        spatial: tuple[int, ...] = (6, 7, 5),
        *,
        batch: int = 2,
        channels: int = 1,
        classes: int = 3,
        pointwise: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Case:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Net(channels, classes, len(spatial), pointwise=pointwise, dtype=dtype)
            images = torch.rand(batch, channels, *spatial, dtype=dtype)
            images.flatten()[::7] = 0.0
            images.flatten()[3::7] = 1.0
            with torch.no_grad():
                labels = model(images).argmax(1, keepdim=True)
            wrong = torch.rand(labels.shape) < 0.1
            labels = torch.where(wrong, torch.randint(0, classes, labels.shape), labels)
        model.forwards = 0
        return Case(model, images, labels)

    return make


@pytest.fixture
def quick() -> Callable[..., Attack]:
    """A registered attack in a size for tests: few steps, small blocks."""

    def build(key: str, **overrides: Any) -> Attack:
        small = {"steps": 3, "block_size": 4, "queries": 60}
        names = {field.name for field in fields(ATTACKS[key])}
        settings = {name: value for name, value in small.items() if name in names}
        return ATTACKS[key](**settings | overrides)

    return build


@pytest.fixture
def naive_dice() -> Callable[[Tensor, Tensor, int], Tensor]:
    """Hard foreground Dice per sample, by loops."""

    def dice(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
        result = []
        for one, truth in zip(predicted, labels[:, 0], strict=True):
            scores = []
            for c in range(1, classes):
                a, b = one == c, truth == c
                if a.any() or b.any():
                    scores.append(2 * (a & b).sum().item() / (a.sum().item() + b.sum().item()))
            result.append(sum(scores) / len(scores) if scores else 1.0)
        return torch.tensor(result)

    return dice
