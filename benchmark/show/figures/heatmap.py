"""Transfer heat maps: whose attack harms whom."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...records.reading import Frame
from ..labels import attack_names
from .canvas import arrange, dice_limits, new_figure, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NO_ATTACK = "no attack"


_CELL = 0.42


def transfer_matrix(white_box: Frame, transfer: Frame, attack: str) -> Frame:
    """Dice of every target (columns) on volumes crafted on every surrogate (rows), first row without attack.

    Args:
        white_box: rows of ``white_box.csv``, the diagonal.
        transfer: rows of ``transfer.csv``.
        attack: canonical spec.

    Returns:
        Fractions 0..1, NaN where nothing was measured; every surrogate and target of the transfer rows, in
        alphabetical order.
    """
    from pandas import concat

    pairs: Frame = concat([white_box, transfer])
    pairs = pairs[pairs["attack"] == attack]
    surrogates, targets = (sorted(set(transfer[role])) for role in ("surrogate", "target"))
    matrix = pairs.pivot_table("dice_adv", "surrogate", "target", dropna=False).reindex(
        surrogates, columns=targets
    )
    clean = pairs.groupby("target")["dice_clean"].mean().reindex(targets)
    return concat([clean.to_frame(NO_ATTACK).T, matrix])


def transfer_heatmaps(white_box: Frame, transfer: Frame) -> Figure | None:
    """One heat map per attack that has transfer rows: mean Dice, dark where the target fails.

    Args:
        white_box, transfer: as of :func:`transfer_matrix`; one dataset, one protocol.

    Returns:
        The figure, or None when there are no transfer rows.
    """
    attacks = sorted(set(transfer["attack"]))
    if not attacks:
        return None
    matrices = [transfer_matrix(white_box, transfer, attack) for attack in attacks]
    low, high = dice_limits(np.concatenate([m.to_numpy(float).ravel() for m in matrices]).tolist())
    names = attack_names(Counter([*white_box["attack"], *transfer["attack"]]))
    tall, wide = matrices[0].shape
    rows, columns = arrange(len(attacks), most=3)
    with settings():
        figure = new_figure(columns * (wide * _CELL + 0.9) + 0.8, rows * (tall * _CELL + 1.15))
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        shown = None
        for place, (axes, attack, matrix) in enumerate(zip(grid, attacks, matrices, strict=False)):
            shown = _heatmap(axes, matrix, low, high)
            axes.set_title(names[attack].label)
            if place % columns == 0:
                axes.set_ylabel("surrogate (attacked)")
            if place + columns >= len(attacks):
                axes.set_xlabel("target (scored)")
        for axes in grid[len(attacks) :]:
            axes.set_visible(False)
        bar = figure.colorbar(shown, ax=list(grid), shrink=0.8, pad=0.02, aspect=30)  # type: ignore[arg-type]
        bar.set_label("mean Dice")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _heatmap(axes: Axes, matrix: Frame, low: float, high: float):
    values = matrix.to_numpy(float)
    axes.set_facecolor("0.85")
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=high, aspect="equal")
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        bright = known and (value - low) / (high - low) > 0.5
        axes.text(
            column, row, f"{value:.2f}" if known else "–", ha="center", va="center", fontsize=6.5,
            color="black" if bright or not known else "white",
            fontweight="bold" if matrix.index[row] == matrix.columns[column] else "normal",
        )  # fmt: skip
    axes.set_xticks(
        range(len(matrix.columns)),
        [str(c) for c in matrix.columns],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(matrix.index)), [str(r) for r in matrix.index])
    axes.axhline(0.5, color="white", linewidth=2.0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image
