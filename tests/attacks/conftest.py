"""Small nets and cases that every attack test builds on, and who must pass which part of the contract.

A test with an argument of `SELECTIONS` runs once per registered attack that the selection admits. What an
attack is, its fields or one run on a counting net decide; no list of keys has to be kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustvox.attacks import ATTACKS, FGSM, PGD, Annealed, Attack, Ensemble, Ensemble2


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


def _make_case(
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


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """Build a seeded net with images and labels; labels agree with the net on most voxels."""
    return _make_case


class QuickEnsemble(Ensemble):
    """The ensemble with members that take a moment; everything else is the released one."""

    def members(self) -> tuple[Attack, ...]:
        return (PGD(eps=self.eps, steps=3), PGD(eps=self.eps, steps=3, loss="ce"), FGSM(eps=self.eps))


class QuickEnsemble2(Ensemble2):
    """Of the second ensemble what it has beside the first."""

    def members(self) -> tuple[Attack, ...]:
        return (PGD(eps=self.eps, steps=3), Annealed(eps=self.eps, steps=3))


QUICK_ENSEMBLES = {"ensemble": QuickEnsemble, "ensemble2": QuickEnsemble2}


def _quick(key: str, **overrides: Any) -> Attack:
    if key in QUICK_ENSEMBLES:
        return QUICK_ENSEMBLES[key](**overrides)
    small = {"steps": 3, "block_size": 4, "queries": 12, "sigma": 0.5}
    names = {field.name for field in fields(ATTACKS[key])}
    settings = {name: value for name, value in small.items() if name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # APGD says that three steps are few
        return ATTACKS[key](**settings | overrides)


@pytest.fixture(scope="session")
def quick() -> Callable[..., Attack]:
    """A registered attack in a size for tests: few steps, small blocks."""
    return _quick


@pytest.fixture(scope="session")
def effort() -> Callable[[str, int], dict[str, int]]:
    """Overrides that give an attack `steps` steps, or as many times eight queries if it has no gradients."""

    def settings(key: str, steps: int) -> dict[str, int]:
        names = _traits(key).fields
        return {name: n for name, n in {"steps": steps, "queries": 8 * steps}.items() if name in names}

    return settings


@dataclass(frozen=True)
class Traits:
    """What an attack is, by its fields and by one run on a tiny volume."""

    fields: frozenset[str]
    forwards: int
    backwards: int
    random: bool
    bounded: bool
    targeted: bool
    composed: bool


@cache
def _traits(key: str) -> Traits:
    attack, case = _quick(key), _make_case((4, 5, 4), batch=1)
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    result = attack(*case, generator=first)
    forwards, backwards = case.model.forwards, case.model.backwards
    return Traits(
        fields=frozenset(field.name for field in fields(attack)),
        forwards=forwards,
        backwards=backwards,
        random=not torch.equal(result, attack(*case, generator=second)),
        bounded=attack.radius is not None,
        targeted=attack.takes_targets,
        composed=hasattr(attack, "members"),
    )


#: name of a test's argument -> which attacks it runs over
SELECTIONS: dict[str, Callable[[Traits], bool]] = {
    "any_key": lambda _: True,
    "budgeted_key": lambda traits: "eps" in traits.fields,
    "bounded_key": lambda traits: traits.bounded,
    "model_key": lambda traits: traits.forwards > 0,
    "gradient_key": lambda traits: traits.backwards > 0,
    "bounded_gradient_key": lambda traits: traits.backwards > 0 and traits.bounded,
    # An attack made of others shows one point per member; test_ensemble.py says what holds for it.
    "tracking_key": lambda traits: traits.forwards > 1 and not traits.composed,
    "steps_key": lambda traits: "steps" in traits.fields and traits.forwards > 0,
    "alpha_key": lambda traits: "alpha" in traits.fields,
    "queries_key": lambda traits: "queries" in traits.fields,
    "loss_key": lambda traits: "loss" in traits.fields,
    "random_key": lambda traits: traits.random,
    "targeted_key": lambda traits: traits.targeted,
    "untargeted_key": lambda traits: not traits.targeted,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, admits in SELECTIONS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [key for key in sorted(ATTACKS) if admits(_traits(key))])


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
