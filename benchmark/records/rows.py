"""The rows of a records file: their fields, and whether a row is one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from .schema import ROWS, problem_of, shown
from .unit import Unit

SCORE = ("class_id", "class_name", "dice", "hd95_mm", "nsd", "status")


COST = ("linf", "l2", "psnr", "ssim", "forwards", "backwards", "seconds", "flags", "provenance")


OPTIONAL = (
    "asr_voxel",
    "asr_foreground",
    "linf_channels",
    "blind",
    "prompts",
    "patient",
)  # of cost rows; older ones lack them


SHOWN = ("dataset", "case", "attack", "surrogate", "target", "protocol", "seed")


HASHES = ("surrogate_sha256", "target_sha256", "data_sha256")


COLUMNS = {
    "score": ("kind", "unit", *SHOWN, *SCORE),
    "cost": ("kind", "unit", *SHOWN, *HASHES, *COST),
    "failure": ("kind", "unit", *SHOWN, *HASHES, "error"),
}


NUMBERS = ("dice", "hd95_mm", "nsd", *COST[:-2], *OPTIONAL[:2], "blind")


INTEGERS = ("seed", "class_id")


def parse_line(line: bytes) -> dict[str, Any]:
    """A line as a row; empty where it is no JSON object, in which no number is infinite or none."""
    try:
        row = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def row_problem(row: dict[str, Any], pending: dict[int, dict[str, Any]]) -> str:
    """Why a parsed line cannot be used as a record of the first form, or nothing."""
    if not row:
        return "something that is not a JSON object"
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in ROWS:
        return f"kind {shown(kind)}"
    problem = problem_of(ROWS[kind], row, f"{kind} row")
    if not problem and kind == "cost" and not any(s["unit"] == row["unit"] for s in pending.values()):
        return "a cost row without score rows before it"
    return problem


def slot_of(row: Mapping[str, Any]) -> tuple:
    """What :attr:`~robustvox.benchmark.records.unit.Unit.slot` is, of a row."""
    return tuple(row[field.name] for field in fields(Unit) if field.name != "data_sha256")


def make_row(kind: str, unit: Unit, values: Mapping[str, Any], expected: Sequence[str]) -> dict[str, Any]:
    """A row with its unit's identity.

    Raises:
        ValueError: missing or unknown fields, or values that a row cannot hold.
    """
    optional = [name for name in OPTIONAL if kind == "cost" and name in values]
    if set(values) != {*expected, *optional}:
        raise ValueError(f"{kind} row: expected the fields {sorted(expected)}, got {sorted(values)}")
    known = {"kind": kind, "unit": unit.key, **asdict(unit), **values}
    row = plain({name: known[name] for name in (*COLUMNS[kind], *optional)})
    problem = row_problem(row, {0: row})
    if problem:
        raise ValueError(f"expected a valid {kind} row, got {problem}")
    return row


def plain(value: Any) -> Any:
    """Values as JSON knows them: numpy scalars unwrapped, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"record: expected JSON values, got {value!r}; convert it to str, int or float")


def encode(*rows: Mapping[str, Any]) -> bytes:
    """Rows as lines: of the first form of records, which is still read, and of the provenance."""
    return b"".join(json.dumps(row, allow_nan=False).encode("ascii") + b"\n" for row in rows)
