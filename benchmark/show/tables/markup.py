"""How text and tables are written: one CSV, one Markdown, one LaTeX, each with one rule of escaping.

Names come from records, which anyone can write. So no cell can break a line, open a tag, run as a formula in a
spreadsheet or as a command in LaTeX.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence

from ...records.reading import Frame
from ...specs.names import printable


def csv_text(table: Frame, text_columns: Sequence[str]) -> str:
    """A table as CSV, unrounded; text that a spreadsheet would run as a formula gets a leading apostrophe.

    Args:
        table: any columns.
        text_columns: those that hold text; of them, the ones that the table has.
    """
    safe = table.copy()
    for name in text_columns:
        if name in table:
            safe[name] = [_no_formula(printable(cell)) for cell in table[name]]
    return safe.to_csv(index=False, lineterminator="\n")


def csv_value(cell: str) -> str:
    """Text as it was before :func:`csv_text` wrote it.

    Example:
        >>> csv_value("'=1+1"), csv_value("'=1+1'"[:1]), csv_value("unet")
        ('=1+1', "'", 'unet')
    """
    return cell[1:] if cell.startswith("'") and _runs(cell) else cell


def _no_formula(cell: str) -> str:
    return f"'{cell}" if _runs(cell) else cell


def _runs(cell: str) -> bool:
    """Whether a spreadsheet would run it, or would without the apostrophes in front."""
    bare = cell.lstrip("'")
    return bare.lstrip().startswith(("=", "+", "-", "@")) or bare.startswith("\t")


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int] = (0,)
) -> str:
    """Finished cells as a Markdown table; the columns at ``left`` are aligned left, the others right.

    Example:
        >>> print(markdown_table(["model", "Dice"], [["unet", "0.88"]]), end="")
        | model | Dice |
        | --- | ---: |
        | unet | 0.88 |
    """
    rule = ["---" if column in left else "---:" for column in range(len(heads))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *rows))


def markdown_text(text: object) -> str:
    """Text that Markdown and HTML show as it is."""
    return html.escape(re.sub(r"([\\`*\[\]|])", r"\\\1", printable(text).replace("\t", " ")))


def latex_text(text: object) -> str:
    """Text that LaTeX prints as it is."""
    return printable(text).replace("\t", " ").translate(_LATEX)


_LATEX = str.maketrans(
    {
        **{symbol: f"\\{symbol}" for symbol in "{}$&#%_"},
        **{symbol: f"{{{symbol}}}" for symbol in "[]*"},  # at a row's start LaTeX would take them as options
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)
