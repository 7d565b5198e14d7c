"""The worst case of every organ, and of the smallest and the largest: a mean hides that small ones break first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .evidence import Evidence, Organ
from .tables import Cell, Table, number, pair

_HEADINGS = (
    "organ",
    "size ml",
    "lost in cases",
    "mean Dice, clean → worst",
    "worst case",
    "its attack",
    "its Dice, clean → attacked",
    "its HD95 {}, clean → attacked",
)


@dataclass(frozen=True)
class Worst:
    """What is shown of one model.

    Attributes:
        table: a row per organ, the smallest first where sizes are known.
        sentence: on the smallest and the largest; empty where sizes are not known or there is one organ.
    """

    table: Table
    sentence: str


def mean_sizes(by_case: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Mean millilitres of every class over the cases that have it.

    Example:
        >>> mean_sizes({"a": {1: 2.0, 2: 8.0}, "b": {1: 4.0}})
        {1: 3.0, 2: 8.0}
    """
    found: dict[int, list[float]] = {}
    for sizes in by_case.values():
        for class_id, ml in sizes.items():
            found.setdefault(class_id, []).append(ml)
    return {class_id: math.fsum(ml) / len(ml) for class_id, ml in sorted(found.items())}


def worst_organs(found: Evidence, sizes: Mapping[int, float], unit: str = "mm") -> Worst | None:
    """The table of a model; None where no organ was attacked.

    Args:
        found: what the rows say of it.
        sizes: of :func:`mean_sizes`, empty where nobody knows.
        unit: of HD95.
    """
    organs = [organ for organ in found.organs if organ.cases or organ.unfound]
    if not any(organ.cases for organ in organs):
        return None
    organs.sort(key=lambda organ: (sizes.get(organ.class_id, math.inf), organ.class_id))
    rows = tuple(_row(organ, sizes.get(organ.class_id, math.nan)) for organ in organs)
    kinds = tuple("bad" if organ.lost else "" for organ in organs)
    headings = tuple(heading.format(unit) for heading in _HEADINGS)
    table = Table(f"Worst case of every organ, {found.model}", headings, rows, kinds)
    return Worst(table, _by_size([o for o in organs if o.cases and o.class_id in sizes], sizes))


def _row(organ: Organ, ml: float) -> tuple[Cell, ...]:
    size = "unknown" if math.isnan(ml) else _ml(ml)
    if not organ.cases:
        told = f"not found on the clean volume in {organ.unfound}"
        return (Cell(organ.name, "word"), Cell(size, "number"), Cell("n/a", "number"), Cell("n/a", "number"),
                Cell(told, "text"), Cell(""), Cell("n/a", "number"), Cell("n/a", "number"))  # fmt: skip
    hd95 = (
        f"{number(organ.hd95_clean, 1)} → none left" if organ.gone else pair(organ.hd95_clean, organ.hd95, 1)
    )
    return (
        Cell(organ.name, "word"),
        Cell(size, "number"),
        Cell(f"{organ.lost} of {organ.cases}", "main" if organ.lost else "number"),
        Cell(pair(organ.mean_clean, organ.mean, 3), "number"),
        Cell(organ.case, "word"),
        Cell(organ.label, "word"),
        Cell(pair(organ.dice_clean, organ.dice, 3), "number"),
        Cell(hd95, "number"),
    )


def _ml(size: float) -> str:
    return f"{size:.0f}" if size >= 100 else f"{size:.3g}"


def _by_size(organs: list[Organ], sizes: Mapping[int, float]) -> str:
    if len(organs) < 2:
        return ""
    told = [
        f"The {word} organ, {organ.name} ({_ml(sizes[organ.class_id])} ml), goes from {organ.mean_clean:.3f} to {organ.mean:.3f}"
        f" and is lost in {organ.lost} of {organ.cases} cases"
        for word, organ in (("smallest", organs[0]), ("largest", organs[-1]))
    ]
    return ". ".join(told) + "."
