"""A table that fits the terminal: a line a row, or, where that is too wide, a row's name and its values below it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000
"""Columns, for what a table would like to have."""

_INDENT = 2


def needs(view: RenderableType, console: Console) -> int:
    """Columns that a table takes when nothing limits it."""
    return Measurement.get(console, console.options.update(max_width=UNLIMITED), view).maximum


def fitted_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> RenderableType:
    """Rows of text under their headings, nothing of them cut at any width.

    Args:
        console: where it is printed.
        title: of the table.
        headings: of the columns; the first names the row.
        rows: a text per heading.
    """
    view = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    for number, heading in enumerate(headings):
        view.add_column(Text(heading), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        view.add_row(*map(Text, row))
    if needs(view, console) <= console.width:
        return view
    parts: list[RenderableType] = [Text(title, "italic")] if title else []
    for name, *values in rows:
        parts.append(Text(f"{headings[0]} {name}", "bold"))
        told = (f"{heading} {value}" for heading, value in zip(headings[1:], values, strict=True))
        parts.append(Padding(Text(", ".join(told)), (0, 0, 0, _INDENT)))
    return Group(*parts)
