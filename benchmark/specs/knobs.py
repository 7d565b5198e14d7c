"""Which field of an attack scales it, and what is compared when attacks are matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Knob:
    """A field that says how far an attack may go.

    Attributes:
        largest: value that a search tries at most.
        step: the step size that keeps its ratio to the knob, or nothing.
    """

    largest: float
    step: str = ""


KNOBS: Mapping[str, Knob] = {
    "q_max": Knob(2000.0),
    "rho": Knob(1.0, step="beta"),
    "std": Knob(1.0),
    "eps": Knob(1.0, step="alpha"),
}
"""In the order in which an attack's knob is found: where a frequency attack has an ``eps`` too, that is a bound beside
its budget."""

STEPS = tuple(knob.step for knob in KNOBS.values() if knob.step)
"""Fields that follow a knob as a rule, and matter only where they do not."""

MEASURES = {"l2": 1.0, "ssim": 2.0}
"""What matched attacks have in common, and how it grows with a small knob, as a power."""

TOLERANCE = 0.02
"""How far below the reference a matched attack may stay, relative."""


def find_knob(parameters: Mapping[str, Any]) -> str:
    """The knob among hyper-parameters: the first that is a number > 0, else one that is 0, else nothing.

    Example:
        >>> find_knob({"q_max": 20, "eps": 8 / 255}), find_knob({"eps": 0.0}), find_knob({"eps": None, "steps": 5})
        ('q_max', 'eps', '')
    """
    numbers = [name for name in KNOBS if is_number(parameters.get(name))]
    return next((name for name in numbers if parameters[name] > 0), numbers[0] if numbers else "")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a hyper-parameter is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
