"""Clean and attacked Dice of every row on one scale: positions for an SVG whose colors are those of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .evidence import Evidence
from .tables import number

MOST = 60
"""Rows that one chart shows."""

_LEFT, _WIDTH = 2.0, 96.0  # per cent: dots at 0 and 1 stay whole


def place(dice: float) -> str:
    """Where a Dice lies on the scale.

    Example:
        >>> place(0.0), place(0.5), place(1.0)
        ('2.00%', '50.00%', '98.00%')
    """
    return f"{_LEFT + _WIDTH * min(max(dice, 0.0), 1.0):.2f}%"


TICKS = tuple((place(tick), f"{tick:g}") for tick in (0.0, 0.25, 0.5, 0.75, 1.0))
"""Position and text of the scale's marks."""


@dataclass(frozen=True)
class Line:
    """One row of the chart; positions are empty where there is nothing to draw.

    Attributes:
        model, attack: whose row it is.
        noise: whether it is a control.
        clean, dice, low, high: positions.
        text: the numbers, in words.
    """

    model: str
    attack: str
    noise: bool
    clean: str
    dice: str
    low: str
    high: str
    text: str


def chart(found: Iterable[Evidence]) -> tuple[Line, ...]:
    """A line per row that has a Dice, those of others' volumes behind each model's own."""
    lines = []
    for model in found:
        for row in (*model.rows, *model.others):
            if math.isnan(row.dice):
                continue
            name = model.model if row.surrogate == model.model else f"{row.surrogate} → {model.model}"
            lines.append(
                Line(
                    model=name,
                    attack=row.label,
                    noise=row.noise,
                    clean=_spot(row.clean),
                    dice=place(row.dice),
                    low=_spot(row.low),
                    high=_spot(row.high),
                    text=f"{number(row.clean, 3)} → {number(row.dice, 3)}",
                )
            )
    return tuple(lines)


def _spot(dice: float) -> str:
    return "" if math.isnan(dice) else place(dice)
