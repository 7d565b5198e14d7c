"""The curve of the frequency study: Dice under low-pass and high-pass, and what every radial band does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...plan.attacks import brief
from ...records.reading import Frame
from ...show.figures.canvas import line_style, new_figure, save, settings
from ...specs.names import component
from .bands import SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(folder: Path, table: Frame) -> list[Path]:
    """One SVG and one PNG per surrogate, target and scaling of ``bands.csv``; attacks share the axes."""
    written = []
    for (surrogate, target, rescale), rows in table.groupby(["surrogate", "target", "rescale"], sort=False):
        name = surrogate if surrogate == target else f"{surrogate}_on_{target}"
        stem = component("_".join([name, *([] if rescale == "none" else [rescale])]))
        written += save(curve(rows), folder / stem)
    return written


def curve(rows: Frame) -> Figure:
    """Three panels: Dice against the cut, energy per radial band, Dice under each radial band alone.

    Args:
        rows: what :func:`~robustvox.benchmark.studies.frequency.tables.summarize` gives for one surrogate, target and
            scaling, one or more attacks.
    """
    with settings():
        figure = new_figure(10.0, 3.4)
        cuts, energy, alone = figure.subplots(1, 3)
        first = rows.iloc[0]
        for number, (attack, mine) in enumerate(rows.groupby("attack", sort=False)):
            color, label = line_style(number).color, brief(str(attack))
            _cuts(cuts, mine, color, label)
            _radial(energy, alone, mine, color, label)
        for axes in (cuts, alone):
            axes.axhline(float(first["dice_clean"]), color="0.5", linewidth=0.8)
            axes.set_ylabel("mean Dice")
        cuts.set(
            xlabel="cut, in 1/96 of the Nyquist frequency", title="solid: only below, dashed: only the rest"
        )
        cuts.set_xscale("log", base=2)
        cuts.set_xticks(ticks := sorted({SIDE * c for c in rows.loc[rows["kind"] == "low", "high"]}))
        cuts.set_xticklabels([f"{tick:g}" for tick in ticks], rotation=45, ha="right")
        energy.set(ylabel="share of the energy", ylim=(0, None), title="energy per radial band")
        alone.set(title="only this radial band", ylim=cuts.get_ylim())
        handles = cuts.get_legend_handles_labels()
        if handles[0]:
            figure.legend(*handles, loc="outside lower center", ncols=4)
        figure.suptitle(_headline(first), fontsize=9)
        return figure


def _cuts(axes: Axes, rows: Frame, color: str, label: str) -> None:
    for kind, edge, style in (("low", "high", "o-"), ("high", "low", "s--")):
        mine = rows[rows["kind"] == kind].sort_values(edge)
        if not len(mine):
            continue
        place = SIDE * mine[edge].to_numpy()
        axes.plot(
            place, mine["dice"], style, color=color, markersize=3.5, label=label if kind == "low" else None
        )
        axes.fill_between(place, mine["dice_low"], mine["dice_high"], color=color, alpha=0.15, linewidth=0)
    axes.axhline(float(rows["dice_adv"].iloc[0]), color=color, linewidth=0.8, linestyle=":")


def _radial(energy: Axes, alone: Axes, rows: Frame, color: str, label: str) -> None:
    mine = rows[rows["kind"] == "radial"].sort_values("low")
    if not len(mine):
        return
    place = np.arange(len(mine))
    error = np.nan_to_num(np.stack([mine["dice"] - mine["dice_low"], mine["dice_high"] - mine["dice"]])).clip(
        min=0
    )
    energy.plot(place, mine["energy"], "o-", color=color, markersize=3.5, label=label)
    alone.errorbar(place, mine["dice"], error, fmt="o-", color=color, markersize=3.5, elinewidth=0.8)
    names = [str(name).removeprefix("radial ") for name in mine["band"]]
    for axes in (energy, alone):
        axes.set_xticks(place, names, rotation=45, ha="right")
        axes.set_xlabel("frequency, in 1/96 of Nyquist")


def _headline(row: Frame) -> str:
    target = "" if row["surrogate"] == row["target"] else f", scored on {row['target']}"
    scaled = "" if row["rescale"] == "none" else f", bands rescaled to the {row['rescale']} norm of the whole"
    clean = f"gray line: clean {row['dice_clean']:.3f}, dotted: attacked"
    return f"{row['dataset']}, {row['surrogate']}{target}, {row['n_cases']} cases{scaled} ({clean})"
