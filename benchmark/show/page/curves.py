"""Dice against the budget, as coordinates for hand-made SVG: every model of a dataset, on axes that all charts share.

Drawn without a chart library: the bytes of matplotlib's SVG depend on its version and on the fonts of the
machine, and the page is compared byte by byte.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...metrics.statistics import with_interval
from ..labels import NATURAL, NOISE, AttackName, model_defence, model_family
from .board import Board, Frame

WIDTH, LEAST_HEIGHT = 500, 260


LEFT, RIGHT, TOP, BOTTOM = 38, 158, 10, 34  # margins; names stand in the right one


LINE = 14  # height of a name


MARKERS = 11
"""Shapes there are; models of one family share a color and differ in them."""


Row = Mapping[str, Any]  # of the white-box table


_LONGEST = 18  # letters of a name that fit into the margin


class Axis(NamedTuple):
    """What a budget is measured in: what is written below, the value of one unit, and which charts share its range."""

    name: str
    unit: float
    shared: str


@dataclass(frozen=True)
class Point:
    """Position of a measured value, its interval's ends, and what it is."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Curve:
    """One model: its points from clean to the largest budget, and where its name stands."""

    model: str
    short: str
    family: str
    marker: int
    defended: bool
    points: tuple[Point, ...]
    label_y: float

    @property
    def path(self) -> str:
        """Points of an SVG polyline."""
        return " ".join(f"{p.x:.1f},{p.y:.1f}" for p in self.points)


@dataclass(frozen=True)
class Chart:
    """One attack at several budgets: curves, ticks as position and text, and the height of the picture."""

    protocol: str
    title: str
    axis: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    height: int


@dataclass(frozen=True)
class _Series:
    """What one chart shows: the rows of every model under one attack, by budget."""

    protocol: str
    attack: AttackName
    by_model: Mapping[str, Sequence[Row]]

    @property
    def axis(self) -> Axis:
        knob = self.attack.knob
        if knob in ("eps", "std"):
            return Axis(f"{knob} in 1/255 of the intensity range", 1 / 255, "intensity")
        return Axis(knob, 1.0, knob)


def charts(board: Board, names: Mapping[str, AttackName]) -> list[Chart]:
    """A chart for every attack that some model met at two budgets or more: the one with the most rows first, noise last.

    All show all models that met the attack at all, the same range of Dice, and the same budgets where these are
    measured in the same unit.
    """
    drawn = _series(board, names)
    if not drawn:
        return []
    rows = [row for series in drawn for found in series.by_model.values() for row in found]
    values = [value for row in rows for value in (*_bounds(row), row["dice_clean"]) if not math.isnan(value)]
    y_ticks = _dice_ticks(min(values), max(values))
    farthest: dict[str, float] = {}
    for series in drawn:
        largest = max(_budget(row, names, series.axis) for found in series.by_model.values() for row in found)
        farthest[series.axis.shared] = max(largest, farthest.get(series.axis.shared, 0.0))
    height = height_for(max(len(series.by_model) for series in drawn))
    marker = _markers(board.white_box["surrogate"].unique().tolist())
    return [
        _chart(series, names, _ticks(0.0, farthest[series.axis.shared]), y_ticks, height, marker)
        for series in drawn
    ]


def _series(board: Board, names: Mapping[str, AttackName]) -> list[_Series]:
    table: Frame = board.white_box
    table = table[table["dice_adv"].notna()]
    found: dict[tuple, dict[str, list[Row]]] = {}
    for row in table.to_dict("records"):
        name = names[row["attack"]]
        if name.knob and math.isfinite(name.parameters[name.knob]):
            found.setdefault((row["protocol"], name.name, name.series), {}).setdefault(
                row["surrogate"], []
            ).append(row)
    series = []
    for (protocol, *_), by_model in found.items():
        ordered = {
            model: sorted(rows, key=lambda r: (_value(r, names), r["attack"]))
            for model, rows in by_model.items()
        }
        if any(len({_value(row, names) for row in rows}) > 1 for rows in ordered.values()):
            first = next(iter(ordered.values()))[0]
            series.append(_Series(protocol, names[first["attack"]], ordered))
    return sorted(series, key=_place)


def _place(series: _Series) -> tuple[Any, ...]:
    attack, rows = series.attack, sum(map(len, series.by_model.values()))
    most = -len(series.by_model), -rows
    return series.protocol, attack.family == NOISE, *most, attack.line, repr(attack.series)


def _value(row: Row, names: Mapping[str, AttackName]) -> float:
    name = names[row["attack"]]
    return float(name.parameters[name.knob])


def _budget(row: Row, names: Mapping[str, AttackName], axis: Axis) -> float:
    return _value(row, names) / axis.unit


def _markers(models: Sequence[str]) -> dict[str, int]:
    """A marker per model; models of one family share a color, so their markers differ."""
    marker: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for model in sorted(models):
        family = model_family(model)
        marker[model] = seen[family] % MARKERS
        seen[family] += 1
    return marker


def _chart(
    series: _Series,
    names: Mapping[str, AttackName],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    height: int,
    marker: Mapping[str, int],
) -> Chart:
    axis = series.axis
    scale = _Scale(x_ticks[-1] or 1.0, y_ticks[0], y_ticks[-1], height)
    drawn = {
        model: (
            *(_clean(row, scale) for row in rows[:1] if not math.isnan(row["dice_clean"])),
            *(_attacked(row, scale, _budget(row, names, axis), names[row["attack"]].label) for row in rows),
        )
        for model, rows in sorted(series.by_model.items())
    }
    label_y = spread({model: found[-1].y for model, found in drawn.items()}, height - BOTTOM)
    specs = {_value(row, names): names[row["attack"]] for rows in series.by_model.values() for row in rows}
    budgets = ", ".join(a.label.removeprefix(f"{a.name} ") for _, a in sorted(specs.items()))
    digits = 0 if x_ticks[-1] >= 2 else 1 if x_ticks[-1] >= 0.2 else 3
    return Chart(
        series.protocol,
        f"{series.attack.name}: {budgets}",
        axis.name,
        tuple(
            Curve(
                *(model, short(model), model_family(model), marker[model]),
                *(model_defence(model) != NATURAL, found, label_y[model]),
            )
            for model, found in drawn.items()
        ),
        tuple((scale.x(t), f"{t:.{digits}f}") for t in x_ticks),
        tuple((scale.y(t), f"{t:.2f}") for t in y_ticks),
        height,
    )


@dataclass(frozen=True)
class _Scale:
    """From a budget and Dice to pixels of a chart."""

    right: float
    bottom: float
    top: float
    height: int

    def x(self, budget: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * budget / self.right

    def y(self, dice: float) -> float:
        inner = self.height - TOP - BOTTOM
        return self.height - BOTTOM - inner * (dice - self.bottom) / (self.top - self.bottom)


def _clean(row: Row, scale: _Scale) -> Point:
    height = scale.y(row["dice_clean"])
    return Point(scale.x(0.0), height, height, height, f"clean: Dice {row['dice_clean']:.3f}")


def _attacked(row: Row, scale: _Scale, budget: float, label: str) -> Point:
    dice, (low, high) = row["dice_adv"], _bounds(row)
    shown = with_interval(dice, row["dice_adv_low"], row["dice_adv_high"], between="\u2013")
    moved = "" if math.isnan(row["l2"]) else f", L2 {row['l2']:.2f}"
    return Point(scale.x(budget), scale.y(dice), scale.y(low), scale.y(high), f"{label}: Dice {shown}{moved}")


def _bounds(row: Frame) -> tuple[float, float]:
    """Ends of the bar of a point: its interval, or the point where there is none."""
    low, high = row["dice_adv_low"], row["dice_adv_high"]
    return (row["dice_adv"], row["dice_adv"]) if math.isnan(low) else (low, high)


def _dice_ticks(low: float, high: float) -> list[float]:
    """Steps of 0.1 around the values, of 0.05 where they lie close; at least two, within 0 and 1."""
    parts = 10 if high - low > 0.25 else 20
    first = max(0, min(math.floor(low * parts), parts - 1))
    last = min(parts, max(math.ceil(high * parts), first + 1))
    return [tick / parts for tick in range(first, last + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to at least ``high``, three to seven of them."""
    span = max(high - low, 1e-6)
    unit = 10.0 ** math.floor(math.log10(span))
    step = next(s for s in (0.2 * unit, 0.5 * unit, unit, 2 * unit, 5 * unit) if span / s <= 5)
    return [low + step * i for i in range(math.ceil(span / step - 1e-9) + 1)]


def height_for(names: int) -> int:
    """Of a picture with room for so many names beside it."""
    return max(LEAST_HEIGHT, TOP + BOTTOM + LINE * names)


def spread(wanted: Mapping[str, float], bottom: float) -> dict[str, float]:
    """Heights of names beside the ends of their curves, at least a line apart, between the top and ``bottom``."""
    placed: dict[str, float] = {}
    lowest = float(TOP)
    for model in sorted(wanted, key=lambda m: (wanted[m], m)):
        placed[model] = max(wanted[model], lowest)
        lowest = placed[model] + LINE
    overshoot = max(0.0, lowest - LINE - bottom)
    limit = math.inf
    for model in sorted(placed, key=lambda m: (-placed[m], m)):
        placed[model] = min(placed[model], limit, bottom if overshoot else math.inf)
        limit = placed[model] - LINE
    return placed


def short(name: str) -> str:
    """A name that fits into the margin.

    Example:
        >>> short("unet"), short("someone.package:Factory")
        ('unet', 'someone.package:F\u2026')
    """
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "\u2026"
