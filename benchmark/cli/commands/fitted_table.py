"""A table that fits the terminal: a line a row, or, where that is too wide, a row's name and its values below it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000
"""Columns, for what a table would like to have."""

_INDENT = 2
_FOLDED = 20  # letters that a column needs which may take several lines

Cell = str | Text


def needs(view: RenderableType, console: Console) -> int:
    """Columns that a table takes when nothing limits it."""
    return Measurement.get(console, console.options.update(max_width=UNLIMITED), view).maximum


def fitted_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, fold: int = 0
) -> RenderableType:
    """Rows of text under their headings, nothing of them cut at any width.

    Args:
        console: where it is printed.
        title: of the table.
        headings: of the columns; the first names the row, and is left out below one another where it is empty.
        rows: a text per heading; lines of one text are one value below the other.
        fold: how many of the last columns may take several lines.
    """
    first = len(headings) - fold
    view = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    for number, heading in enumerate(headings):
        plain = 0 < number < first
        view.add_column(
            Text(heading),
            justify="right" if plain else "left",
            no_wrap=number < first,
            overflow="fold",
            min_width=None if number < first else _folded(number, headings, rows),
        )
    for row in rows:
        view.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    if _wide(headings, rows, first) <= console.width:
        return view
    parts: list[RenderableType] = [Text(title, "italic")] if title else []
    for name, *values in rows:
        parts.append(Text(f"{headings[0]} {name}".strip(), "bold"))
        told = [
            Text.assemble(f"{heading} ".replace("\n", " ").lstrip(), _in_line(value))
            for heading, value in zip(headings[1:], values, strict=True)
            if str(value)
        ]
        parts.append(Padding(Text("; ").join(told), (0, 0, 0, _INDENT)))
    return Group(*parts)


def _folded(column: int, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> int:
    return min(_width(column, headings, rows), _FOLDED)


def _width(column: int, headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> int:
    """Of the longest line of a column."""
    texts = (headings[column], *(str(row[column]) for row in rows))
    return max((cell_len(line) for text in texts for line in text.split("\n")), default=0)


def _wide(headings: Sequence[str], rows: Sequence[Sequence[Cell]], first: int) -> int:
    """The least width of a line a row."""
    columns = range(len(headings))
    sizes = (_width(n, headings, rows) if n < first else _folded(n, headings, rows) for n in columns)
    return sum(sizes) + 2 * len(columns)


def _in_line(cell: Cell) -> Text:
    text = cell if isinstance(cell, Text) else Text(cell)
    return Text(", ").join(text.split("\n"))


def fitted_markdown(console: Console, text: str) -> Iterable[RenderableType]:
    """Paragraphs and tables of a page of ours for the terminal.

    Example:
        >>> page = "# Title" + chr(10) + "| a | b |" + chr(10) + "| --- | ---: |" + chr(10) + "| x &lt; y | 1 |"
        >>> console = Console(width=40)
        >>> with console.capture() as said:
        ...     for part in fitted_markdown(console, page):
        ...         console.print(part)
        >>> for line in said.get().splitlines():
        ...     print(line.rstrip())
        # Title
         a      b
         x < y  1
    """
    table: list[list[str]] = []
    for line in (*text.split("\n"), ""):
        if line.startswith("|"):
            table.append([plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
            continue
        if table:
            yield fitted_table(console, "", table[0], table[2:])
            table = []
        if line:
            yield Text(plain(line))


def plain(cell: str) -> str:
    """What a cell of Markdown says."""
    return html.unescape(re.sub(r"\\([\\`*\[\]|])", r"\1", cell.strip().replace("**", "")))
