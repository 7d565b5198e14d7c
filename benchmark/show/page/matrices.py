"""Two-way tables of Dice, one per attack: surrogate by target, and model by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..labels import NOISE, AttackName
from .board import CLEAN, Board, Frame, own

SHADES = 20


_CLASS = ["class_id", "class_name"]


_UNIT_OF_CLASS = ["protocol", "surrogate", "surrogate_sha256", "attack", "case"]


@dataclass(frozen=True)
class Cell:
    """One number: Dice in 0..1, a second line in small print, and whether it is the model itself."""

    value: float
    small: str = ""
    own: bool = False

    @property
    def digits(self) -> tuple[str, str]:
        """The number with two decimals, in two parts: a narrow screen leaves the first one, ``0.``, away."""
        text = f"{self.value:.2f}"
        return ("0.", text[2:]) if text.startswith("0.") else ("", text)


@dataclass(frozen=True)
class Matrix:
    """Rows and columns of cells; None where nothing was measured."""

    protocol: str
    attack: AttackName
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Dice at both ends of the color scale, multiples of 0.05 around the cells and at least 0.1 apart.

        White-box cells of a transfer table do not count: beside them all that transfers would look alike.
        """
        cells = [cell for _, row in self.rows for cell in row if cell is not None]
        values = [cell.value for cell in cells if not cell.own] or [cell.value for cell in cells]
        low, high = math.floor(min(values) * 20 + 1e-9), math.ceil(max(values) * 20 - 1e-9)
        low = min(low, 18)
        return low / 20, max(high, low + 2) / 20

    def shade(self, cell: Cell) -> int:
        """Step of the color scale, 0 (its low end and all below) to :data:`SHADES` - 1."""
        low, high = self.scale
        return min(SHADES - 1, max(0, int((cell.value - low) / (high - low) * SHADES)))


def transfer_matrices(board: Board, names: Mapping[str, AttackName]) -> list[Matrix]:
    """Dice of every target on the volumes made against every surrogate; the diagonal is white-box."""
    matrices = []
    for protocol, attack in _groups(board.transfer, names):
        cells: dict[tuple[str, str], Cell] = {}
        for table in (board.white_box, board.transfer):
            part = table[(table["protocol"] == protocol) & (table["attack"] == attack)]
            columns = ("surrogate", "target", "dice_adv", "dice_adv_low", "dice_adv_high")
            for surrogate, target, dice, low, high in zip(*(part[c].tolist() for c in columns), strict=True):
                if not math.isnan(dice):
                    small = "" if math.isnan(low) else f"{low:.2f}\u2013{high:.2f}"
                    cells[surrogate, target] = Cell(dice, small, table is board.white_box)
        crossed = [pair for pair, cell in cells.items() if not cell.own]
        surrogates = sorted({surrogate for surrogate, _ in crossed})
        targets = sorted({target for _, target in crossed} | set(surrogates))
        if crossed:
            rows = tuple((s, tuple(cells.get((s, t)) for t in targets)) for s in surrogates)
            matrices.append(Matrix(protocol, names[attack], tuple(targets), rows))
    return matrices


def class_matrices(board: Board, names: Mapping[str, AttackName]) -> list[Matrix]:
    """White-box Dice per foreground class, clean Dice and organs gone in small print."""
    classes: Frame = own(board.classes)
    classes = classes.assign(lost=classes["status"] == "missing")
    # Seeds of one case first, so that a case stays the unit.
    units = classes.groupby([*_UNIT_OF_CLASS, *_CLASS], as_index=False).agg({"dice": "mean", "lost": "max"})
    table: Frame = units.groupby(["protocol", "attack", "surrogate", *_CLASS]).agg(
        dice=("dice", "mean"), lost=("lost", "sum")
    )
    cells: dict[tuple[str, str], dict[str, dict[tuple[int, str], tuple[float, int]]]] = {}
    for (protocol, attack, model, *key), dice, lost in zip(
        table.index.tolist(), table["dice"].tolist(), table["lost"].tolist(), strict=True
    ):
        cells.setdefault((protocol, attack), {}).setdefault(model, {})[key[0], key[1]] = (dice, int(lost))
    matrices = []
    for protocol, attack in _groups(board.white_box, names):
        by_model, clean = cells.get((protocol, attack), {}), cells.get((protocol, CLEAN), {})
        keys = sorted({key for found in by_model.values() for key in found})
        rows = tuple(
            (model, tuple(_class_cell(found.get(key), clean.get(model, {}).get(key)) for key in keys))
            for model, found in sorted(by_model.items())
        )
        if rows:
            matrices.append(Matrix(protocol, names[attack], tuple(name for _, name in keys), rows))
    return matrices


def _class_cell(attacked: tuple[float, int] | None, clean: tuple[float, int] | None) -> Cell | None:
    if attacked is None or math.isnan(attacked[0]):
        return None
    parts = [f"clean {clean[0]:.2f}"] if clean and not math.isnan(clean[0]) else []
    parts += [f"{attacked[1]} gone"] if attacked[1] else []
    return Cell(attacked[0], ", ".join(parts))


def _groups(table: Frame, names: Mapping[str, AttackName]) -> list[tuple[str, str]]:
    """Protocols and attacks with rows: the attacks on the most pairs first, the strongest first among them."""
    groups = table.groupby(["protocol", "attack"])["dice_adv"]
    count, mean = groups.size().to_dict(), groups.mean().fillna(1.0).round(6).to_dict()

    def place(pair: tuple[str, str]) -> tuple:
        attack = names[pair[1]]
        return pair[0], attack.family == NOISE, -count[pair], mean[pair], attack.label

    return sorted(count, key=place)
