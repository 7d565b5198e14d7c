"""Reading records: complete blocks only, as frames."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compact import Definitions, is_compact, line_problem
from .rows import COLUMNS, INTEGERS, NUMBERS, OPTIONAL, parse_line, row_problem, slot_of
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
    """Read every complete block and failure.

    Args:
        root: ``runs/<dataset>/records``, or ``runs/<dataset>`` or ``runs`` above it for all that is there. A folder that does
            not exist has no records.

    Raises:
        RecordsError: if a line before a file's last one is not a record, naming file and line.
    """
    from pandas import DataFrame

    outcomes: dict[tuple, list[dict[str, Any]]] = {}
    for path in (path for folder in _folders(Path(root)) for path in sorted(folder.glob("*/*/*.jsonl"))):
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


def _folders(root: Path) -> list[Path]:
    """The folders of records that are meant: ``root`` itself, or those below it.

    A model may be called ``records``; its folder holds files, and that of a dataset only folders.
    """
    below = [root / "records", *sorted(root.glob("*/records"))]
    return [folder for folder in below if folder.is_dir() and not any(folder.glob("*.jsonl"))] or [root]


def read_blocks(path: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Complete blocks of a file, each with the byte offset where it ends; both forms of lines, mixed as they come.

    Raises:
        RecordsError: a line before the last one is no record, or the file cannot be read.
    """
    yield from scan(path, Definitions())


def scan(path: Path, known: Definitions) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """:func:`read_blocks` that leaves in ``known`` what the file defines."""
    pending: dict[int, dict[str, Any]] = {}
    end = 0
    lines = read_bytes(path).split(b"\n")
    tail = lines.pop()  # empty, or a line that was never finished
    for number, line in enumerate(lines, start=1):
        end += len(line) + 1
        row = parse_line(line)
        compact = is_compact(row)
        rows, problem = _compact(row, known) if compact else ([], row_problem(row, pending))
        if problem:
            if number == len(lines) and not tail:
                return  # the last line: torn by a crash, to be computed again
            raise RecordsError(
                f"{path}, line {number}: expected a record, got {problem}; {restoring(path)} or remove the line"
            )
        if compact:
            pending = {}
            if rows:
                yield rows, end
            continue
        if pending and next(iter(pending.values()))["unit"] != row["unit"]:
            pending = {}  # rows of a unit that never got its closing row
        if row["kind"] == "score":
            pending[row["class_id"]] = row
            continue
        yield ([*pending.values(), row] if row["kind"] == "cost" else [row]), end
        pending = {}


def _compact(line: dict[str, Any], known: Definitions) -> tuple[list[dict[str, Any]], str]:
    problem = line_problem(line)
    if problem:
        return [], problem
    if line["kind"] in ("setting", "data"):
        return [], known.learn(line)
    return known.expand(line)


def read_bytes(path: Path) -> bytes:
    """The content of a file of records; nothing where there is none yet.

    Raises:
        RecordsError: what is there is no file, or cannot be read.
    """
    try:
        if not os.path.lexists(path):
            return b""
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecordsError(f"{path}: expected a file, found something else; {restoring(path)}")
        return path.read_bytes()
    except OSError as error:
        raise RecordsError(
            f"{path}: expected a readable file, found {error.strerror}; {restoring(path)}"
        ) from error


def restoring(path: Path) -> str:
    """How to get a file back."""
    return f"restore the file from version control (git checkout -- {shlex.quote(str(path))})"
