"""The two result files of the study: a row per patient, written after every piece of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ...records.packed import read_packed, write_packed
from ...records.reading import Frame
from ...show.tables.markup import csv_text, csv_value

FUNCTION_FILE, TRANSFER_FILE = "function_cases.csv.gz", "transfer_cases.csv.gz"
"""Compressed, because every row repeats what decides it: a twentieth of the bytes, and pandas reads them as they are."""


@dataclass(frozen=True, kw_only=True)
class FunctionRow:
    """How well one model does the victim's job on one patient of scanner B.

    Attributes:
        victim_sha256: of the victim's checkpoint.
        shift: the scanner, as ``ScannerShift.parse`` reads it.
        seed: of the theft.
        subject: row of the tables.
        spec: everything else that decides the row.
        queries: volumes that the victim answered.
        case: patient.
        dice: mean foreground Dice with the truth.
        agreement: foreground Dice with the victim's labels on the same patient of scanner A.
        empty: whether nothing but background was predicted.
    """

    victim_sha256: str
    shift: str
    seed: int
    subject: str
    spec: str
    queries: int
    case: str
    dice: float
    agreement: float
    empty: bool


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """What one attack on a surrogate does to the victim, on one patient of scanner A.

    Attributes:
        surrogate: row of the tables.
        spec: everything that decides the surrogate.
        attack: canonical spec.
        eps: its L-inf radius.
        dice_clean, dice_adv: of the victim, with the truth.
        linf, l2: measured change.
    """

    victim_sha256: str
    seed: int
    surrogate: str
    spec: str
    attack: str
    eps: float
    case: str
    dice_clean: float
    dice_adv: float
    linf: float
    l2: float


Row = FunctionRow | TransferRow
VALUES = {
    FunctionRow: ("queries", "dice", "agreement", "empty"),
    TransferRow: ("dice_clean", "dice_adv", "linf", "l2"),
}


@dataclass(frozen=True)
class Rows:
    """One file of rows of one kind; numbers read back are those written, bit for bit."""

    path: Path
    kind: type[FunctionRow] | type[TransferRow]

    @property
    def identity(self) -> list[str]:
        """Columns that tell rows apart."""
        return [f.name for f in fields(self.kind) if f.name not in VALUES[self.kind]]

    def read(self) -> Frame:
        """All rows; an empty frame with the right columns before the first."""
        names = [f.name for f in fields(self.kind)]
        if not self.path.exists():
            return pd.DataFrame(columns=names)
        try:
            text = read_packed(self.path)
        except ValueError as error:
            raise ValueError(f"expected rows, found {error} in {self.path}; remove the file") from error
        if list(text.columns) != names:
            raise ValueError(
                f"expected the columns {', '.join(names)} in {self.path}, found {', '.join(text.columns)}; "
                "remove the file"
            )
        readers = {"int": int, "float": float, "bool": "True".__eq__, "str": csv_value}
        for field in fields(self.kind):
            text[field.name] = [readers[str(field.type)](cell) for cell in text[field.name]]
        return text

    def has(self, cases: Sequence[str], **wanted: Any) -> bool:
        """Whether all these cases are there with these values."""
        frame = self.read()
        for name, value in wanted.items():
            frame = frame[frame[name] == value]
        return set(cases) <= set(frame["case"])

    def add(self, rows: Sequence[Row]) -> None:
        """Append, replace rows of the same identity, sort, and write at once or not at all."""
        new = pd.DataFrame([asdict(row) for row in rows])
        old = self.read()
        both: Frame = pd.concat([old, new], ignore_index=True) if len(old) else new
        both = both.drop_duplicates(self.identity, keep="last").sort_values(self.identity, kind="stable")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_packed(self.path, csv_text(both, [f.name for f in fields(self.kind) if f.type == "str"]))
