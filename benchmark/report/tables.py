"""The tables of a report: headings and cells in the order in which they are shown; the template only draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..plan.attacks import short_name
from ..records.reading import Frame


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says.
        kind: how it is set: ``number``, ``main`` for the number that matters, ``text`` for prose that wraps, ``word`` for
            names that may break anywhere, ``spec`` for those that break behind commas, or nothing.
        title: what a pointer over it shows.
        flags: small marks behind the text.
    """

    text: str
    kind: str = ""
    title: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading.

    Attributes:
        title: what stands above it and is read out for it.
        headings: one per column.
        rows: cells, as many as there are headings.
        kinds: per row a word that colors it, or nothing; empty for none at all.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    kinds: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[tuple[str, bool], ...]:
        """Headings, and whether numbers stand below them."""
        first = self.rows[0] if self.rows else ()
        numeric = [cell.kind in ("number", "main") for cell in first] or [False] * len(self.headings)
        return tuple(zip(self.headings, numeric, strict=True))


_Make = Callable[[Mapping[str, Any]], Cell]


def number(value: Any, digits: int, factor: float = 1.0) -> str:
    """A rounded number, ``n/a`` where there is none.

    Example:
        >>> number(8 / 255, 2, 255.0), number(float("nan"), 1), number(None, 1)
        ('8.00', 'n/a', 'n/a')
    """
    return "n/a" if value is None or math.isnan(value) else f"{value * factor:.{digits}f}"


def pair(before: Any, after: Any, digits: int, word: str = " → ") -> str:
    """Two numbers, or once that there are none.

    Example:
        >>> pair(1.0, 2.0, 1), pair(float("nan"), float("nan"), 1)
        ('1.0 → 2.0', 'n/a')
    """
    return word.join(dict.fromkeys((number(before, digits), number(after, digits)))) if (
        before != before and after != after
    ) else f"{number(before, digits)}{word}{number(after, digits)}"  # fmt: skip


def _numbers(names: Sequence[str], digits: int, word: str = "", factor: float = 1.0) -> _Make:
    def make(row: Mapping[str, Any]) -> Cell:
        if len(names) == 2:
            return Cell(pair(row[names[0]], row[names[1]], digits, word), "number")
        return Cell(number(row[names[0]], digits, factor), "number")

    return make


def _attack(row: Mapping[str, Any]) -> Cell:
    return Cell(short_name(str(row["attack"])), "word", str(row["attack"]))


def _flags(row: Mapping[str, Any]) -> Cell:
    return Cell("", "flags", flags=tuple(flag for flag in str(row["flags"]).split(";") if flag))


# What a row is worth stands beside its Dice, not at the end of a wide table.
_RESULTS: Mapping[str, _Make] = {
    "attack": _attack,
    "cases": _numbers(("n_cases",), 0),
    "failed": _numbers(("failed",), 0),
    "Dice clean": _numbers(("dice_clean",), 3),
    "Dice attacked": lambda row: Cell(number(row["dice_adv"], 3), "main"),
    "95% interval": _numbers(("dice_adv_low", "dice_adv_high"), 3, " to "),
    "checks": lambda row: Cell(str(row["checks"])),
    "flags": _flags,
    "HD95 mm, clean → attacked": _numbers(("hd95_clean_mm", "hd95_adv_mm"), 1, " → "),
    "NSD, clean → attacked": _numbers(("nsd_clean", "nsd_adv"), 3, " → "),
    "organs gone, invented": _numbers(("missing", "hallucinated"), 0, ", "),
}


_MEASURED: Mapping[str, _Make] = {
    "attack": _attack,
    "L∞ (1/255)": _numbers(("linf",), 2, factor=255.0),
    "L2": _numbers(("l2",), 2),
    "PSNR (dB)": _numbers(("psnr",), 1),
    "SSIM": _numbers(("ssim",), 3),
    "forwards, backwards per case": _numbers(("forwards", "backwards"), 0, ", "),
    "seconds per case": _numbers(("seconds",), 1),
}


def results(table: Frame, title: str, unit: str = "mm") -> Table:
    """What came out, a row per attack, what it is worth beside the Dice; ``unit`` is that of HD95."""
    return _made(
        table, title, {name.replace("HD95 mm", f"HD95 {unit}"): make for name, make in _RESULTS.items()}
    )


def measured(table: Frame, title: str) -> Table:
    """How far the scored volumes were moved, and what that cost."""
    return _made(table, title, _MEASURED)


def _made(table: Frame, title: str, columns: Mapping[str, _Make]) -> Table:
    rows = table.to_dict("records")
    models = [list(dict.fromkeys((str(row["surrogate"]), str(row["target"])))) for row in rows]
    head = "surrogate → target" if any(len(names) > 1 for names in models) else "model"
    return Table(
        title,
        (head, *columns),
        tuple(
            (Cell(" → ".join(names), "word"), *(make(row) for make in columns.values()))
            for names, row in zip(models, rows, strict=True)
        ),
    )


def plain(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "text") -> Table:
    """A table of prose."""
    return Table(title, tuple(headings), tuple(tuple(Cell(text, kind) for text in row) for row in rows))
