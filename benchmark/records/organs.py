"""How large the organs of a dataset are: measured by the ``data`` command, kept beside the records, read by the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..specs.program import pasted
from .unit import RecordsError
from .writing import replace_file

FILE = "organs.csv"
"""Below ``results/<dataset>``."""

COLUMNS = ("class_id", "class_name", "n_cases", "mean_ml")


def write_organs(folder: Path, names: Sequence[str], cases: Iterable[Mapping[int, float]]) -> Path:
    """Write the mean size of every foreground class over the cases that have it.

    Args:
        folder: ``results/<dataset>``.
        names: by class id, background first.
        cases: per case the millilitres of each class id that occurs.

    Returns:
        The file.
    """
    found = list(cases)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for class_id, name in enumerate(names[1:], start=1):
        sizes = [case[class_id] for case in found if case.get(class_id, 0) > 0]
        if sizes:
            writer.writerow([class_id, name, len(sizes), f"{sum(sizes) / len(sizes):.4g}"])
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FILE, text.getvalue())
    return folder / FILE


def read_organs(folder: Path) -> dict[int, float]:
    """Mean millilitres by class id; empty where nobody measured.

    Raises:
        RecordsError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {int(row["class_id"]): float(row["mean_ml"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError) as error:
        raise RecordsError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, found {error!r}; write it again with "
            f"`{pasted(['data', '--dataset', 'NAME', '--organs', 'results'])}`"
        ) from error
