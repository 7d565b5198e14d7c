"""The contract of defences: what a training step minimizes in the place of the plain loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustvox.attacks import Attack

from .step import Step


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """What a training step minimizes. Without state: what is kept between steps lives in ``step.memory``."""

    #: Spec of the attack inside where nothing else is said; empty for a defence that names none.
    inner: ClassVar[str] = ""

    def __post_init__(self) -> None:  # noqa: B027
        """Check the hyper-parameters; subclasses call super first."""

    @property
    def replays(self) -> int:
        """Consecutive steps on the same windows."""
        return 1

    @property
    def radius(self) -> float | None:
        """L-inf radius that training looks at, None where there is none."""
        return None

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """The loss of one step, with a graph."""

    def after(self, step: Step) -> None:  # noqa: B027
        """What follows the backward pass, before the optimizer moves."""


def is_idle(attack: Attack) -> bool:
    """Whether an attack changes nothing by its own numbers: no radius, or no step to take.

    A random start without a step would be noise, not attack; training takes it as none.

    Example:
        >>> from robustvox.attacks import PGD
        >>> is_idle(PGD(eps=0)), is_idle(PGD(steps=0)), is_idle(PGD())
        (True, True, False)
    """
    return attack.radius == 0 or getattr(attack, "steps", 1) == 0


@dataclass(frozen=True, kw_only=True)
class Natural(Defence):
    """No defence: the plain loss."""

    def loss(self, step: Step) -> Tensor:
        return step.loss(step.images)


@dataclass(frozen=True, kw_only=True)
class Mixed(Defence):
    """Some windows of every batch changed, the others as they are.

    Args:
        share: of the windows that are changed, in [0, 1]; over steps where a batch does not divide.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("share", self.share, 0.0, 1.0)

    def chosen(self, step: Step) -> list[int]:
        """Which windows of the batch are changed in this step: the last ones, as many as keep the share."""
        size = len(step.images)
        before, after = (int(n * size * self.share + 1e-9) for n in (step.number, step.number + 1))
        return list(range(size - (after - before), size))

    def loss(self, step: Step) -> Tensor:
        which = self.chosen(step)
        changed = self.change(step, which) if which else None
        return step.loss(step.images if changed is None else step.replaced(which, changed))

    @abstractmethod
    def change(self, step: Step, which: list[int]) -> Tensor | None:
        """These windows changed, ``(len(which), C, *roi)``; None for no change at all."""


def in_range(name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Refuse a hyper-parameter that is no number in [low, high].

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        upper = "" if high == float("inf") else f" and at most {high:g}"
        raise ValueError(f"{name}: expected a number of at least {low:g}{upper}, got {value!r}")
