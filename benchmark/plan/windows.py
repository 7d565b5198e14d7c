"""Which window a network gets that does not tell one: asked for, the dataset's, or what its volumes need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustvox.datasets import Dataset
from robustvox.datasets.shapes import volume_shapes

from ..specs.spec import UsageError

LARGEST = 96**3
"""Voxels of a window that is made for volumes; larger ones are cut into several, as memory and time ask for."""

SPREAD = 1.5
"""A window covers volumes up to this many times the median side: one outlier does not make all others padding."""

DIVISORS = (1, 2, 4, 8, 16, 32, 64)
"""Networks that halve their input several times take multiples of one of these."""


@dataclass(frozen=True)
class WindowChoice:
    """Windows a network may have, the best first.

    Args:
        sizes: in voxels.
        source: who chose.
        fixed: whether the first one was asked for and no other will do.
    """

    sizes: tuple[tuple[int, ...], ...]
    source: str
    fixed: bool = True

    @property
    def in_identity(self) -> bool:
        """Whether the window is not the dataset's own, so that numbers under it need an identity of their own."""
        return self.source != "the dataset"


def choose_window(dataset: Dataset, asked: Sequence[int] | None = None) -> WindowChoice:
    """The window for a network that tells none.

    Args:
        dataset: with a window of its own where it is a published one.
        asked: of ``--roi-size`` or of a parameter ``roi_size``.

    Example:
        >>> from robustvox.datasets import open_dataset
        >>> choose_window(open_dataset("phantom")).source, choose_window(open_dataset("phantom"), (32, 32, 32)).source
        ('the dataset', '--roi-size')
    """
    if asked is not None:
        return WindowChoice((tuple(asked),), "--roi-size")
    if dataset.roi_size:
        return WindowChoice((tuple(dataset.roi_size),), "the dataset")
    shapes = volume_shapes(dataset)
    if not shapes:
        # Every case will fail and say why; any window does.
        return WindowChoice(((32, 32, 32),), "no volume could be read")
    sides = fitting(shapes)
    sizes = (tuple(-(-side // d) * d for side in sides) for d in DIVISORS)
    return WindowChoice(tuple(dict.fromkeys(sizes)), "the volumes' size", fixed=False)


def fitting(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The window that holds the volumes whole, or the largest that is affordable.

    Example:
        >>> fitting([(35, 51, 35), (34, 48, 38)]), fitting([(512, 512, 120)])
        ((35, 51, 38), (96, 96, 96))
        >>> fitting([(35, 51, 35)] * 5 + [(512, 512, 400)])
        (53, 77, 53)
    """
    sides = [
        min(max(axis), math.ceil(SPREAD * statistics.median(axis))) for axis in zip(*shapes, strict=True)
    ]
    while math.prod(sides) > LARGEST:
        longest = max(sides)
        sides[sides.index(longest)] = longest - 1
    return tuple(sides)


def with_window(
    choice: WindowChoice,
    build: Callable[[tuple[int, ...]], Any],
    refusals: type[Exception] | tuple[type[Exception], ...],
) -> tuple[Any, tuple[int, ...]]:
    """What ``build`` makes of the first window it takes, and that window; where it takes none, its last refusal.

    The last window is the roundest: what is said of it is least likely to be about the window and not about a parameter.
    """
    last: Exception | None = None
    for size in choice.sizes:
        try:
            return build(size), size
        except refusals as error:
            last = error
    if last is None:
        raise UsageError("expected a window, got none; give --roi-size")
    raise last


def read_window(value: Any, where: str, axes: int = 3) -> tuple[int, ...]:
    """A window as it is written: ``96``, ``(96,96,64)``, ``96,96,64`` or ``96x96x64``.

    Raises:
        UsageError: anything but one or ``axes`` positive whole numbers.

    Example:
        >>> read_window(32, "--roi-size"), read_window("48x64x48", "--roi-size")
        ((32, 32, 32), (48, 64, 48))
    """
    found: list[Any] = list(value) if isinstance(value, tuple | list) else [value]
    if isinstance(value, str):
        parts = value.strip("() ").lower().replace("x", ",").split(",")
        found = [int(part) if part.strip().isdigit() else part for part in parts if part.strip()]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in found)
    if not whole or len(found) not in (1, axes):
        raise UsageError(
            f"expected {where} as one or {axes} positive whole numbers, such as 96 or 48,64,48, got {value!r}"
        )
    return tuple(found) * (axes if len(found) == 1 else 1)
