"""Rounded views of the tables of results: Markdown and booktabs LaTeX, the best model marked, all text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ...records.reading import Frame
from .best import BEST, TIED, Marks
from .markup import latex_text, markdown_table, markdown_text

TEXT = ("dataset", "protocol", "surrogate", "target", "attack", "flags", "checks")
"""Columns of text; names and flags come from records and are escaped."""

DICE = "Dice adv (95% interval)"


MARKDOWN_NOTE = (
    "**Bold**: the model that keeps the highest Dice under this attack (transfer: of the targets of one surrogate). "
    "†: not distinguishable from it at the 5% level (sign-flip test over the same cases, Holm's correction)."
)


LATEX_NOTE = (
    "Bold: the model that keeps the highest Dice under this attack (transfer: of the targets of one surrogate). "
    "$^\\dagger$: not distinguishable from it at the 5\\% level (sign-flip test over the same cases, Holm's correction)."
)


def _view(table: Frame) -> dict[str, list[str]]:
    """Rounded columns by their heading."""

    def rounded(name: str, digits: int, factor: float = 1.0) -> list[str]:
        return ["n/a" if np.isnan(x) else f"{x * factor:.{digits}f}" for x in table[name].tolist()]

    bounds = [rounded(name, 3) for name in ("dice_adv", "dice_adv_low", "dice_adv_high")]
    return {
        **{name: table[name].tolist() for name in TEXT[:5]},
        "cases": rounded("n_cases", 0),
        "Dice clean": rounded("dice_clean", 3),
        DICE: [
            mean if mean == "n/a" else f"{mean} ({low} to {high})"
            for mean, low, high in zip(*bounds, strict=True)
        ],
        "HD95 clean (mm)": rounded("hd95_clean_mm", 1),
        "HD95 adv (mm)": rounded("hd95_adv_mm", 1),
        "NSD clean": rounded("nsd_clean", 3),
        "NSD adv": rounded("nsd_adv", 3),
        **{name: rounded(name, 0) for name in ("missing", "hallucinated", "failed")},
        "Linf (1/255)": rounded("linf", 2, 255.0),
        "L2": rounded("l2", 2),
        "PSNR (dB)": rounded("psnr", 1),
        "SSIM": rounded("ssim", 3),
        "forwards": rounded("forwards", 0),
        "backwards": rounded("backwards", 0),
        "seconds": rounded("seconds", 1),
        "flags": table["flags"].tolist(),
        "checks": table["checks"].tolist(),
    }


def markdown(table: Frame, marks: Marks, notes: Sequence[str] = ()) -> str:
    """A Markdown table, what its marks mean if it has any, and what is to be said of the data."""
    view = _view(table)
    marked = _marks(table, marks)
    view[DICE] = [markdown_marked(cell, mark) for cell, mark in zip(view[DICE], marked, strict=True)]
    left = [column for column, heading in enumerate(view) if heading in TEXT]
    table_text = markdown_table(list(view), _escaped_rows(view, markdown_text), left=left)
    return table_text + markdown_notes(any(marked), notes)


def markdown_notes(marked: bool, notes: Sequence[str]) -> str:
    """Paragraphs below a table."""
    told = [*([MARKDOWN_NOTE] if marked else []), *(f"Note: {markdown_text(note)}." for note in notes)]
    return "".join(f"\n{text}\n" for text in told)


def latex(table: Frame, marks: Marks, notes: Sequence[str] = ()) -> str:
    """A booktabs tabular, to be ``\\input`` inside a table environment; comments say what belongs into the caption."""
    view = _view(table)
    marked = _marks(table, marks)
    view[DICE] = [latex_marked(cell, mark) for cell, mark in zip(view[DICE], marked, strict=True)]
    alignment = "".join("l" if heading in TEXT else "r" for heading in view)
    heads = [latex_text(heading) for heading in view]
    return tabular(alignment, heads, _escaped_rows(view, latex_text), any(marked), notes)


def tabular(
    alignment: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    noted: bool,
    notes: Sequence[str] = (),
) -> str:
    """Rows of finished cells between booktabs rules."""
    head, *body = (f"{' & '.join(line)} \\\\\n" for line in (heads, *rows))
    rules = [f"\\begin{{tabular}}{{{alignment}}}\n\\toprule\n", head, "\\midrule\n", *body]
    told = [*([LATEX_NOTE] if noted else []), *(f"{latex_text(note)}." for note in notes)]
    note = "".join(f"% For the caption: {text}\n" for text in told)
    return "".join([*rules, "\\bottomrule\n\\end{tabular}\n", note])


def markdown_marked(cell: str, mark: str) -> str:
    """A cell in bold if its model is the best, with a dagger if it ties with the best."""
    return f"**{cell}**" if mark == BEST else f"{cell}†" if mark == TIED else cell


def latex_marked(cell: str, mark: str) -> str:
    """As :func:`markdown_marked`, in LaTeX."""
    return f"\\textbf{{{cell}}}" if mark == BEST else f"{cell}$^\\dagger$" if mark == TIED else cell


def _marks(table: Frame, marks: Marks) -> list[str]:
    return [marks.get(row, "") for row in table[list(TEXT[:5])].itertuples(index=False, name=None)]


def _escaped_rows(view: dict[str, list[str]], escape: Callable[[str], str]) -> list[tuple[str, ...]]:
    columns = [list(map(escape, cells)) if name in TEXT else cells for name, cells in view.items()]
    return list(zip(*columns, strict=True))
