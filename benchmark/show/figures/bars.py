"""Every row of a table at one glance: clean Dice, attacked Dice, interval."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...records.reading import Frame
from ..labels import attack_names
from .canvas import OKABE_ITO, dice_limits, new_figure, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST = 60
"""Rows that one figure shows."""


def drop_chart(table: Frame) -> Figure | None:
    """One line per row: an open dot for the clean Dice, a filled one with its 95% interval for the attacked.

    Args:
        table: rows of ``white_box.csv`` or ``transfer.csv``; of more than :data:`MOST` the first are shown.

    Returns:
        The figure, or None when no row has a Dice.
    """
    rows = table[np.isfinite(table["dice_adv"])].head(MOST)
    if not len(rows):
        return None
    attacks = attack_names(Counter(table["attack"]))
    names = [_name(row, attacks[row["attack"]].label) for row in rows.to_dict("records")]
    place = np.arange(len(rows))
    clean, attacked = rows["dice_clean"].to_numpy(float), rows["dice_adv"].to_numpy(float)
    low, high = rows["dice_adv_low"].to_numpy(float), rows["dice_adv_high"].to_numpy(float)
    with settings():
        figure = new_figure(6.4, 0.75 + 0.22 * len(rows))
        axes = figure.subplots()
        axes.hlines(place, attacked, clean, color="0.8", linewidth=3.0)
        axes.plot(clean, place, "o", color="0.35", markerfacecolor="white", markersize=5, label="clean")
        axes.errorbar(
            attacked, place, xerr=np.stack([attacked - low, high - attacked]), fmt="o", color=OKABE_ITO[4],
            elinewidth=1.0, capsize=2, markersize=5, label="attacked, 95% interval",
        )  # fmt: skip
        axes.set_yticks(place, names)
        axes.set(
            xlabel="mean Dice",
            xlim=dice_limits([*clean, *attacked, *low, *high]),
            ylim=(len(rows) - 0.4, -0.6),
        )
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def _name(row: dict, attack: str) -> str:
    models = (
        row["surrogate"] if row["surrogate"] == row["target"] else f"{row['surrogate']} → {row['target']}"
    )
    return f"{models}, {attack}"
