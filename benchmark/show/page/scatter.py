"""Clean Dice against the worst case of every ranked model: what robustness was bought with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...metrics.statistics import with_interval
from .curves import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Point, height_for, short, spread
from .ranking import Place

DASH = "\u2013"


@dataclass(frozen=True)
class Dot(Point):
    """A model in pixels of the chart; ``low`` and ``high`` bound the interval of its worst case, its name stands in the
    right margin at ``label_y``."""

    model: str
    defence: str
    family: str
    marker: int
    short: str
    label_y: float


@dataclass(frozen=True)
class Scatter:
    """Dots, ticks of both axes in pixels with their text, the marker of every defence, and the height of the picture."""

    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    markers: tuple[tuple[str, int], ...]
    height: int


def scatter(places: Sequence[Place]) -> Scatter | None:
    """The scatter of ranked models; None for fewer than two, which would say nothing."""
    if len(places) < 2:
        return None
    left, right = _bounds([place.clean for place in places])
    bottom, top = _bounds([value for place in places for value in place.bar])
    height = height_for(len(places))

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - left) / (right - left)

    def y(value: float) -> float:
        return height - BOTTOM - (height - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    markers = {
        name: number
        for number, name in enumerate(dict.fromkeys(sorted({p.defence for p in places}, key=_first)))
    }
    label_y = spread({place.model: y(place.worst) for place in places}, height - BOTTOM)
    dots = tuple(
        Dot(
            x=x(place.clean),
            y=y(place.worst),
            low=y(place.bar[0]),
            high=y(place.bar[1]),
            title=f"{place.model}: clean {place.clean:.3f}, worst case "
            + with_interval(place.worst, place.low, place.high, between=DASH),
            model=place.model,
            defence=place.defence,
            family=place.family,
            marker=markers[place.defence],
            short=short(place.model),
            label_y=label_y[place.model],
        )
        for place in places
    )
    return Scatter(
        dots,
        tuple((x(tick), f"{tick:.2f}") for tick in _ticks(left, right)),
        tuple((y(tick), f"{tick:.2f}") for tick in _ticks(bottom, top)),
        tuple(markers.items()),
        height,
    )


def _first(defence: str) -> tuple[bool, str]:
    return defence != "natural", defence


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Multiples of 0.05 around the values, a little room on both sides, within 0 and 1."""
    low = max(0.0, math.floor(min(values) * 20 - 0.2) / 20)
    high = min(1.0, math.ceil(max(values) * 20 + 0.2) / 20)
    return (low, high) if high > low else (max(0.0, low - 0.05), low)


def _ticks(low: float, high: float) -> list[float]:
    step = 0.01 if high - low <= 0.06 else 0.05 if high - low <= 0.3 else 0.1
    return [round(low + step * i, 2) for i in range(int((high - low) / step + 1e-6) + 1)]
