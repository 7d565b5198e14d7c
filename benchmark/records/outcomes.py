"""Outcomes of checks beside the records: one JSON line per model, attack, protocol and check.

``results/<dataset>/checks/<protocol>.jsonl``, sorted; the last run of a check replaces its line. The tables
take the short form (``C8:fail``) from here into the flags of every row with the same surrogate weights and the
same attack spec, white-box and transfer alike.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .reading import read_bytes, restoring
from .schema import shown
from .unit import RecordsError
from .writing import replace_file

if TYPE_CHECKING:
    from pandas import DataFrame


KEYS = ("dataset", "protocol", "surrogate_sha256", "attack")


_IDENTITY = (*KEYS, "check")


_ORDER = ("dataset", "protocol", "surrogate", "surrogate_sha256", "attack")


_TEXT = ("surrogate", "slug", "status", "flag", "rule", "detail", "robustvox", "commit", "torch")


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """What one check found, as it is stored; fields in the order of the file.

    Attributes:
        dataset, protocol, surrogate, surrogate_sha256, attack: what was checked, as in records.
        check, slug: id of the check, ``C1``, and the id in words.
        status: ``pass``, ``warn``, ``fail`` or ``skip``.
        flag: short form for the tables, ``C8:fail``; empty unless it warns or fails.
        number: what was compared with the rule, None where nothing was measured.
        rule, detail: thresholds in words, and what the number means here.
        cases: ids of the cases it was measured on.
        seed, queries: of all noise; forwards of the gradient-free probe.
        robustvox, commit, torch: versions.
    """

    dataset: str
    protocol: str
    surrogate: str
    surrogate_sha256: str
    attack: str
    check: str
    slug: str
    status: str
    flag: str
    number: float | None
    rule: str
    detail: str
    cases: tuple[str, ...]
    seed: int
    queries: int
    robustvox: str
    commit: str
    torch: str


_COLUMNS = tuple(field.name for field in fields(CheckOutcome))
"""What is read of a line; a line with more is no wider table."""


def save(folder: Path, outcomes: Iterable[CheckOutcome]) -> None:
    """Add outcomes to ``results/<dataset>/checks``, each replacing the one of the same identity.

    A file is replaced in one piece, so that a kill leaves the old one or the new one.

    Raises:
        RecordsError: if a file that is there cannot be read.
        ValueError: if an outcome cannot be stored.
    """
    by_protocol: dict[str, list[Mapping[str, Any]]] = {}
    for entry in map(asdict, outcomes):
        problem = _problem(entry)
        if problem:
            raise ValueError(f"check outcome: expected a valid line, got {problem}")
        by_protocol.setdefault(entry["protocol"], []).append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for protocol, entries in by_protocol.items():
            path = folder / f"{protocol}.jsonl"
            known = {_identity(entry): entry for entry in (*_read(path), *entries)}
            text = "".join(json.dumps(known[key], allow_nan=False) + "\n" for key in _sorted(known))
            replace_file(path, text, durable=True)


def load_flags(folder: Path) -> DataFrame:
    """Warnings and failures under ``results/<dataset>/checks``: columns :data:`KEYS` and ``flags``.

    A folder that does not exist has none.

    Raises:
        RecordsError: if a line is damaged, naming file and line.

    Example:
        >>> load_flags(Path("no/such/folder")).columns.tolist()
        ['dataset', 'protocol', 'surrogate_sha256', 'attack', 'flags']
    """
    from pandas import DataFrame

    warnings = load_warnings(folder)
    return DataFrame({**{key: warnings[key] for key in KEYS}, "flags": warnings["flag"]})


def load_warnings(folder: Path) -> DataFrame:
    """Warnings and failures as :func:`load_flags` reads them, with the rule and what was found."""
    outcomes: Any = load_outcomes(folder)
    flagged = outcomes[outcomes["flag"].astype(str) != ""]
    return flagged[[*KEYS, "surrogate", "flag", "rule", "detail"]].reset_index(drop=True)


def load_outcomes(folder: Path) -> DataFrame:
    """Every outcome under ``results/<dataset>/checks``, one row each, columns as the fields of :class:`CheckOutcome`.

    A folder that does not exist has none; then there are the columns :data:`KEYS`, ``surrogate`` and ``check``.

    Raises:
        RecordsError: if a line is damaged, naming file and line.

    Example:
        >>> len(load_outcomes(Path("no/such/folder")))
        0
    """
    from pandas import DataFrame

    entries = [entry for path in sorted(Path(folder).glob("*.jsonl")) for entry in _read(path)]
    return DataFrame(entries) if entries else DataFrame(columns=[*KEYS, "surrogate", "check", *_TEXT[1:]])


def _read(path: Path) -> list[dict[str, Any]]:
    entries = []
    for number, text in enumerate(read_bytes(path).splitlines(), start=1):
        entry: Any
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            entry = None
        problem = _problem(entry)
        if problem:
            raise RecordsError(
                f"{path}, line {number}: expected the outcome of a check, got {problem}; {restoring(path)} or remove the line"
            )
        entries.append({name: entry[name] for name in _COLUMNS if name in entry})
    return entries


def _problem(entry: Any) -> str:
    """Why something cannot be used as an outcome, or nothing."""
    if not isinstance(entry, Mapping):
        return "something that is not a JSON object"
    for name in (*_IDENTITY, *_TEXT):
        if not isinstance(entry.get(name), str):
            return f"{name}={shown(entry.get(name))}"
    if not re.fullmatch(r"C\d{1,2}", entry["check"]):
        return f"check={shown(entry['check'])}"
    if entry["flag"] not in ("", f"{entry['check']}:{entry['status']}"):
        return f"flag={shown(entry['flag'])}"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", entry["protocol"]):
        return f"protocol={shown(entry['protocol'])}"
    return ""


def _identity(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry[name] for name in _IDENTITY)


def _sorted(known: Mapping[tuple[str, ...], Mapping[str, Any]]) -> list[tuple[str, ...]]:
    def place(key: tuple[str, ...]) -> tuple[Any, ...]:
        entry = known[key]
        return (*(entry[name] for name in _ORDER), int(entry["check"][1:]))

    return sorted(known, key=place)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Other writers wait: two of them would lose each other's lines."""
    try:
        import fcntl
    except ImportError:  # Windows: one writer remains the user's duty
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, as some network mounts
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
