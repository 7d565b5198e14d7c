"""Dice against what the attacker may spend: the nominal budget, and the measured L2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ...records.reading import Frame
from ..labels import attack_names
from .canvas import arrange, dice_limits, line_style, new_figure, quiet_grid, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_WIDTH, _HEIGHT, _LETTER, _LINE = 2.15, 1.9, 0.05, 0.17
"""Inches: of a panel, of a letter of the legend, of its lines."""


_AXES = {
    "eps": ("ε (1/255)", 255.0),
    "std": ("σ (1/255)", 255.0),
    "q_max": ("q_max", 1.0),
    "rho": ("ρ", 1.0),
}


def budget_curves(table: Frame) -> Figure | None:
    """One panel per attack family with at least two budgets: Dice of every model, 95% intervals as bands.

    Args:
        table: rows of ``white_box.csv``, see :data:`robustvox.benchmark.show.tables.results.COLUMNS`; one protocol.

    Returns:
        The figure, or None when no family was run at two budgets.
    """
    rows = _with_budgets(table)
    rows = rows[rows.groupby(["family", "knob"])["value"].transform("nunique") > 1]
    panels = sorted(set(zip(rows["family"], rows["knob"], strict=True)))
    if not panels:
        return None
    styles = {name: line_style(i) for i, name in enumerate(sorted(set(table["surrogate"])))}
    limits = dice_limits(
        [*rows["dice_adv"], *rows["dice_adv_low"], *rows["dice_adv_high"], *rows["dice_clean"]]
    )
    with settings():
        figure, grid = _grid(len(panels), styles)
        for axes, (family, knob) in zip(grid, panels, strict=False):
            name, scale = _AXES[knob]
            part = rows[(rows["family"] == family) & (rows["knob"] == knob)]
            for model, lines in part.groupby("surrogate"):
                _band(axes, lines.sort_values("value"), scale, styles[str(model)], str(model))
            ticks = sorted({float(v) * scale for v in part["value"]})
            axes.set_xticks([0.0, *ticks], ["clean", *(f"{tick:.4g}" for tick in ticks)])
            axes.set(title=family, xlabel=name, ylim=limits)
            quiet_grid(axes)
        _finish(figure, grid, len(panels), "mean Dice, 95% interval")
    return figure


def distortion_curves(table: Frame) -> Figure | None:
    """One panel per model: Dice of every attack against the L2 it measured, families joined by lines.

    Where budgets of two families mean different things, equal L2 is what can be compared.

    Args:
        table: as of :func:`budget_curves`.

    Returns:
        The figure, or None without any row that has both numbers.
    """
    rows = table[np.isfinite(table["dice_adv"]) & np.isfinite(table["l2"])]
    if not len(rows):
        return None
    names = attack_names(Counter(table["attack"]))
    rows = rows.assign(family=[names[spec].line for spec in rows["attack"]])
    styles = {name: line_style(i) for i, name in enumerate(sorted(set(rows["family"])))}
    models = sorted(set(rows["surrogate"]))
    limits = dice_limits(
        [*rows["dice_adv"], *rows["dice_adv_low"], *rows["dice_adv_high"], *rows["dice_clean"]]
    )
    with settings():
        figure, grid = _grid(len(models), styles)
        for axes, model in zip(grid, models, strict=False):
            mine = rows[rows["surrogate"] == model]
            axes.axhline(float(mine["dice_clean"].iloc[0]), color="0.6", linewidth=0.8, linestyle=":")
            for family, points in mine.groupby("family"):
                points = points.sort_values("l2")
                style = styles[str(family)]
                axes.errorbar(
                    points["l2"],
                    points["dice_adv"],
                    yerr=np.abs(
                        points[["dice_adv_low", "dice_adv_high"]].to_numpy().T - points["dice_adv"].to_numpy()
                    ),
                    color=style.color,
                    marker=style.marker,
                    linestyle=style.linestyle,
                    elinewidth=0.7,
                    label=str(family),
                )
            axes.set(title=model, xlabel="measured L2", ylim=limits, xlim=(0, float(rows["l2"].max()) * 1.06))
            quiet_grid(axes)
        _finish(figure, grid, len(models), "mean Dice, 95% interval; dotted: clean")
    return figure


def _with_budgets(table: Frame) -> Frame:
    """Rows with a Dice whose attack has a budget of its own, and what it is: family, knob, value."""
    names = attack_names(Counter(table["attack"]))
    usable = np.array([bool(names[spec].knob) for spec in table["attack"]], bool)
    rows = table[usable & np.isfinite(table["dice_adv"].to_numpy(float))]
    found = [names[spec] for spec in rows["attack"]]
    return rows.assign(
        family=[name.line for name in found],
        knob=[name.knob for name in found],
        value=[float(name.parameters[name.knob]) for name in found],
    )


def _band(axes: Axes, lines: Frame, scale: float, style, label: str) -> None:
    """A line from the clean image over growing budgets, its interval as a band."""
    x = lines["value"].to_numpy(float) * scale
    y = lines["dice_adv"].to_numpy(float)
    clean = float(lines["dice_clean"].iloc[0])
    axes.fill_between(
        x,
        lines["dice_adv_low"].to_numpy(float),
        lines["dice_adv_high"].to_numpy(float),
        color=style.color,
        alpha=0.15,
        linewidth=0,
    )
    axes.plot([0.0, x[0]], [clean, y[0]], color=style.color, linewidth=0.7, linestyle=":")
    axes.plot(0.0, clean, color=style.color, marker=style.marker, markerfacecolor="white", linestyle="none")
    axes.plot(x, y, color=style.color, marker=style.marker, linestyle=style.linestyle, label=label)


def _grid(panels: int, names: Collection[str]) -> tuple[Figure, list[Axes]]:
    """Panels of equal size, and room for a legend of these names below."""
    rows, columns = arrange(panels)
    width = _WIDTH * columns + 0.4
    lines = -(-len(names) // _per_line(names, width))
    figure = new_figure(width, _HEIGHT * rows + 0.3 + _LINE * lines)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    return figure, list(grid.ravel())


def _per_line(names: Collection[str], width: float) -> int:
    return max(min(int(width / (_LETTER * max(map(len, names)) + 0.45)), len(names)), 1)


def _finish(figure: Figure, grid: list[Axes], used: int, label: str) -> None:
    for axes in grid[used:]:
        axes.set_visible(False)
    figure.supylabel(label, fontsize=8.0)
    handles = {}
    for axes in grid[:used]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles=[handles[name] for name in sorted(handles)],
        labels=sorted(handles),
        loc="outside lower center",
        ncols=_per_line(handles, figure.get_figwidth()),
        fontsize=7.0,
    )
