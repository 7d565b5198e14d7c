"""Reading what the studies keep: a row per case, packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records.packed import read_packed
from ..records.reading import Frame
from ..show.tables.markup import csv_value


def read_rows(path: Path, columns: Sequence[str], text: Sequence[str]) -> Frame:
    """The rows of a packed CSV bit by bit, which pandas' own parser of numbers does not promise.

    Args:
        path: the file.
        columns: what a row has, in order; more in the file is left out.
        text: those of them that are text, escaped as :func:`csv_text` writes it. ``seed`` is whole, the others are
            numbers, NaN where a cell is empty.

    Raises:
        ValueError: the file is no packed CSV, or a cell is no number.
        KeyError: a column is missing.
    """
    rows: Frame = read_packed(path)[list(columns)]
    for name in columns:
        if name in text:
            rows[name] = [csv_value(cell) for cell in rows[name]]
        elif name == "seed":
            rows[name] = [int(cell) for cell in rows[name]]
        else:
            rows[name] = [float(cell) if cell else float("nan") for cell in rows[name]]
    return rows
