"""Reading records: complete blocks only, as frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rows import COLUMNS, INTEGERS, NUMBERS, OPTIONAL, parse_line, problem_of, slot_of
from .unit import RecordsError

if TYPE_CHECKING:
    from pandas import DataFrame


Frame = Any  # a pandas object; pandas types its results as unions too wide to check


@dataclass(frozen=True)
class Records:
    """A frame per kind of row: per unit and class, per unit, per failed unit; ``unit`` joins them."""

    scores: DataFrame
    costs: DataFrame
    failures: DataFrame


def load_records(root: Path) -> Records:
    """Read every complete block and failure under ``results/<dataset>/records``.

    A folder that does not exist has no records.

    Raises:
        RecordsError: if a line before a file's last one is not a record, naming file and line.
    """
    from pandas import DataFrame

    outcomes: dict[tuple, list[dict[str, Any]]] = {}
    for path in sorted(Path(root).glob("*/*/*.jsonl")):
        for block, _ in read_blocks(path):
            slot = slot_of(block[-1])
            outcomes.pop(slot, None)
            outcomes[slot] = block
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in COLUMNS}
    for block in outcomes.values():
        for row in block:
            rows[row["kind"]].append(row)
    shown = {**COLUMNS, "cost": (*COLUMNS["cost"], *OPTIONAL)}
    frames = {kind: DataFrame(rows[kind], columns=list(columns)) for kind, columns in shown.items()}
    types = dict.fromkeys(NUMBERS, "float64") | dict.fromkeys(INTEGERS, "int64")
    for kind, frame in frames.items():
        frames[kind] = frame.astype({name: types[name] for name in frame if name in types})
    return Records(frames["score"], frames["cost"], frames["failure"])


def read_blocks(path: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Complete blocks of a file, each with the byte offset where it ends."""
    pending: dict[int, dict[str, Any]] = {}
    end = 0
    lines = (path.read_bytes() if path.exists() else b"").split(b"\n")
    tail = lines.pop()  # empty, or a line that was never finished
    for number, line in enumerate(lines, start=1):
        end += len(line) + 1
        row = parse_line(line)
        problem = problem_of(row, pending)
        if problem:
            if number == len(lines) and not tail:
                return  # the last line: torn by a crash, to be computed again
            raise RecordsError(
                f"{path}, line {number}: expected a record, got {problem}; restore the file from version "
                "control or remove the line"
            )
        if pending and next(iter(pending.values()))["unit"] != row["unit"]:
            pending = {}  # rows of a unit that never got its closing row
        if row["kind"] == "score":
            pending[row["class_id"]] = row
            continue
        yield ([*pending.values(), row] if row["kind"] == "cost" else [row]), end
        pending = {}
