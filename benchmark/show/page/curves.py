"""Dice against the measured budget, as coordinates for hand-made SVG.

Drawn without a chart library: the bytes of matplotlib's SVG depend on its version and on the fonts of the
machine, and the page is compared byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...metrics.statistics import with_interval
from ..labels import NOISE, AttackName, model_family
from .board import Board, Frame

WIDTH, HEIGHT = 400, 250


LEFT, RIGHT, TOP, BOTTOM = 38, 112, 10, 34  # margins; names stand in the right one


LINE = 12  # height of a name


MARKERS = 7


Row = Mapping[str, Any]  # of the white-box table


_LONGEST = 16  # letters of a name that fit into the margin


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
    points: tuple[Point, ...]
    label_y: float

    @property
    def path(self) -> str:
        """Points of an SVG polyline."""
        return " ".join(f"{p.x:.1f},{p.y:.1f}" for p in self.points)


@dataclass(frozen=True)
class Chart:
    """One attack at several budgets: curves, and ticks as position and text."""

    protocol: str
    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def charts(board: Board, names: Mapping[str, AttackName]) -> list[Chart]:
    """A chart for every attack that some model met at two budgets or more, noise last."""
    table: Frame = board.white_box
    table = table[table["dice_adv"].notna() & table["l2"].notna()]
    series: dict[tuple, dict[str, list[Row]]] = {}
    for row in table.to_dict("records"):
        name = names[row["attack"]]
        key = (row["protocol"], name.family == NOISE, name.name, name.series)
        series.setdefault(key, {}).setdefault(row["surrogate"], []).append(row)
    marker = _markers(table["surrogate"].unique().tolist())
    drawn = []
    for key, by_model in sorted(series.items(), key=lambda item: repr(item[0])):
        by_model = {m: sorted(rows, key=lambda r: (r["l2"], r["attack"])) for m, rows in by_model.items()}
        by_model = {m: rows for m, rows in by_model.items() if len(rows) > 1}
        if by_model:
            specs = sorted(
                {row["attack"] for rows in by_model.values() for row in rows}, key=_by_l2(by_model)
            )
            drawn.append(_chart(key[0], [names[s] for s in specs], by_model, names, marker))
    return drawn


def _by_l2(by_model: Mapping[str, Sequence[Row]]) -> Callable[[str], tuple[float, str]]:
    smallest: dict[str, float] = {}
    for rows in by_model.values():
        for row in rows:
            smallest[row["attack"]] = min(row["l2"], smallest.get(row["attack"], math.inf))
    return lambda spec: (smallest[spec], spec)


def _markers(models: Sequence[str]) -> dict[str, int]:
    """A marker per model; models of one family share a color, so their markers differ."""
    marker: dict[str, int] = {}
    seen: dict[str, int] = {}
    for model in sorted(models):
        family = model_family(model)
        marker[model] = seen.get(family, 0) % MARKERS
        seen[family] = seen.get(family, 0) + 1
    return marker


def _chart(
    protocol: str,
    attacks: Sequence[AttackName],
    by_model: Mapping[str, Sequence[Row]],
    names: Mapping[str, AttackName],
    marker: Mapping[str, int],
) -> Chart:
    known = [row for rows in by_model.values() for row in rows]
    x_ticks = _ticks(0.0, max(row["l2"] for row in known))
    bounds = [bound for row in known for bound in _bounds(row)]
    values = [*bounds, *(row["dice_clean"] for row in known)]
    values = [value for value in values if not math.isnan(value)]
    y_ticks = _dice_ticks(min(values), max(values))
    scale = _Scale(x_ticks[-1] or 1.0, y_ticks[0], y_ticks[-1])
    drawn = {
        model: (
            *(_clean(row, scale) for row in rows[:1] if not math.isnan(row["dice_clean"])),
            *(_attacked(row, scale, names[row["attack"]].label) for row in rows),
        )
        for model, rows in sorted(by_model.items())
    }
    label_y = spread({model: found[-1].y for model, found in drawn.items()})
    curves = tuple(
        Curve(model, short(model), model_family(model), marker[model], found, label_y[model])
        for model, found in drawn.items()
    )
    title = f"{attacks[0].name}: " + ", ".join(a.label.removeprefix(f"{a.name} ") for a in attacks)
    digits = 0 if x_ticks[-1] >= 2 else 1 if x_ticks[-1] >= 0.2 else 3
    return Chart(
        protocol,
        title,
        curves,
        tuple((scale.x(t), f"{t:.{digits}f}") for t in x_ticks),
        tuple((scale.y(t), f"{t:.2f}") for t in y_ticks),
    )


@dataclass(frozen=True)
class _Scale:
    """From L2 and Dice to pixels of a chart."""

    right: float
    bottom: float
    top: float

    def x(self, l2: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * l2 / self.right

    def y(self, dice: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (dice - self.bottom) / (self.top - self.bottom)


def _clean(row: Row, scale: _Scale) -> Point:
    height = scale.y(row["dice_clean"])
    return Point(scale.x(0.0), height, height, height, f"clean: Dice {row['dice_clean']:.3f}")


def _attacked(row: Row, scale: _Scale, label: str) -> Point:
    dice, (low, high) = row["dice_adv"], _bounds(row)
    shown = with_interval(dice, row["dice_adv_low"], row["dice_adv_high"], between="\u2013")
    found = f"L2 {row['l2']:.2f}, Dice {shown}"
    return Point(scale.x(row["l2"]), scale.y(dice), scale.y(low), scale.y(high), f"{label}: {found}")


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


def spread(wanted: Mapping[str, float]) -> dict[str, float]:
    """Heights of names beside the ends of their curves, at least a line apart and inside the chart."""
    placed: dict[str, float] = {}
    lowest = float(TOP)
    for model in sorted(wanted, key=lambda m: (wanted[m], m)):
        placed[model] = max(wanted[model], lowest)
        lowest = placed[model] + LINE
    overshoot = max(0.0, lowest - LINE - (HEIGHT - BOTTOM))
    limit = math.inf
    for model in sorted(placed, key=lambda m: (-placed[m], m)):
        placed[model] = min(placed[model], limit, HEIGHT - BOTTOM if overshoot else math.inf)
        limit = placed[model] - LINE
    return placed


def short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "\u2026"
