"""Dice of the smallest and of the largest organ: a mean over classes hides that small ones break first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .board import Board, Frame, own

_UNIT = ["protocol", "surrogate", "attack", "class_id", "case"]


@dataclass(frozen=True)
class BySize:
    """Dice in 0..1 of the smallest and the largest organ; NaN where that is not known.

    Attributes:
        smallest, largest: mean over cases.
    """

    smallest: float = math.nan
    largest: float = math.nan


@dataclass(frozen=True)
class Extremes:
    """Which organs those are: class id, name, and mean size in ml."""

    smallest: tuple[int, str, float]
    largest: tuple[int, str, float]

    def about(self, which: str) -> str:
        """What a column shows, in words."""
        _, name, size = getattr(self, which)
        return f"Mean Dice of the {which} organ, {name} ({size:.3g} ml on average), under the attack."


def extremes(board: Board) -> Extremes | None:
    """The smallest and the largest organ of a board, None where sizes are unknown or there is one organ."""
    classes: Frame = board.classes
    names = dict(zip(classes["class_id"].tolist(), classes["class_name"].tolist(), strict=True))
    known = sorted((size, number) for number, size in board.organs.items() if number in names)
    if len(known) < 2:
        return None
    (small, first), (large, last) = known[0], known[-1]
    return Extremes((first, names[first], small), (last, names[last], large))


def by_size(board: Board, found: Extremes | None) -> Mapping[tuple[str, str, str], BySize]:
    """Dice of both organs by protocol, model and attack; empty where sizes are unknown."""
    if found is None:
        return {}
    classes: Frame = own(board.classes)
    # Seeds of one case first, so that a case stays the unit.
    cases = classes.groupby(_UNIT, as_index=False)["dice"].mean()
    means = cases.groupby(_UNIT[:-1])["dice"].mean().to_dict()
    rows = {key[:3] for key in means}
    return {
        row: BySize(*(means.get((*row, organ[0]), math.nan) for organ in (found.smallest, found.largest)))
        for row in rows
    }
