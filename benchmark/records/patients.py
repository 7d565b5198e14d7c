"""Which cases of a study are of one patient: a list beside its rows, for studies whose rows do not say it themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from robustvox.datasets import Dataset, patient_of

from .writing import replace_file

FILE = "patients.csv"


def note_patients(folder: Path, dataset: Dataset, cases: Iterable[str]) -> None:
    """Write who the cases are of, added to what is there; nothing where every case is a patient of its own."""
    found = {case: patient_of(dataset, case) for case in cases}
    shared = {case: patient for case, patient in found.items() if patient != case}
    known = read_patients(folder)
    if shared.items() <= known.items():
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "patient"))
    writer.writerows(sorted({**known, **shared}.items()))
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FILE, text.getvalue())


def read_patients(folder: Path) -> dict[str, str]:
    """Patient by case; empty where nothing is noted, and every case is a patient."""
    path = folder / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["case"]: row["patient"] for row in csv.DictReader(file)}


def patients_of_cases(cases: Sequence[str], patients: Mapping[str, str]) -> list[str]:
    """Whom each case is of, in order.

    Example:
        >>> patients_of_cases(["p1_a", "p1_b", "c"], {"p1_a": "p1", "p1_b": "p1"})
        ['p1', 'p1', 'c']
    """
    return [patients.get(case, case) for case in cases]
