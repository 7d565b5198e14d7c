"""Append-only records of everything that was scored: JSON lines that survive a kill at any byte.

Layout under ``results/<dataset>/records``::

    <protocol>/provenance.jsonl               versions, hardware, command; each entry once
    <protocol>/<surrogate>/<attack>.jsonl     "clean.jsonl" for the clean images

A unit (one case, attacked on one surrogate, scored on one target) is a block: one row per foreground class,
then one closing cost row. A unit that failed is one failure row. A block is written in one piece, flushed and
synced; what a kill leaves of a block (a torn last line, rows without their closing row) is ignored when
reading and cut off before the next append. For the same case, attack, checkpoints, protocol and seed the last
block or failure in the file counts, so changed data replaces its old result and a success its failure.

NaN and infinite numbers are null in the files and NaN in the frames.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import component, records_file

if TYPE_CHECKING:
    from pandas import DataFrame

_SCORE = ("class_id", "class_name", "dice", "hd95_mm", "nsd", "status")
_COST = ("linf", "l2", "psnr", "ssim", "forwards", "backwards", "seconds", "flags", "provenance")
_SHOWN = ("dataset", "case", "attack", "surrogate", "target", "protocol", "seed")
_HASHES = ("surrogate_sha256", "target_sha256", "data_sha256")
_COLUMNS = {
    "score": ("kind", "unit", *_SHOWN, *_SCORE),
    "cost": ("kind", "unit", *_SHOWN, *_HASHES, *_COST),
    "failure": ("kind", "unit", *_SHOWN, *_HASHES, "error"),
}
_NUMBERS = ("dice", "hd95_mm", "nsd", "linf", "l2", "psnr", "ssim", "forwards", "backwards", "seconds")
_INTEGERS = ("seed", "class_id")


class RecordsError(RuntimeError):
    """The records cannot be read or written; the message names the file and what to do."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Identity of one scored thing. Changing any field makes it another unit, which is computed anew.

    Args:
        dataset: registry key of the dataset.
        case: case id.
        attack: canonical attack spec, ``"none"`` for the clean image.
        surrogate: display name of the attacked model.
        surrogate_sha256: hash of its checkpoint.
        target: display name of the scored model.
        target_sha256: hash of its checkpoint.
        protocol: name of the protocol.
        seed: seed of the attack.
        data_sha256: fingerprint of the case as loaded, ``""`` where unknown.
    """

    dataset: str
    case: str
    attack: str
    surrogate: str
    surrogate_sha256: str
    target: str
    target_sha256: str
    protocol: str
    seed: int
    data_sha256: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value, wanted = getattr(self, field.name), int if field.name == "seed" else str
            if type(value) is not wanted:
                raise ValueError(
                    f"Unit.{field.name}: expected {wanted.__name__}, got {value!r} ({type(value).__name__}); "
                    f"convert it with {wanted.__name__}(...)"
                )

    @property
    def key(self) -> str:
        """First 16 hex digits of the SHA-256 of all fields as canonical JSON."""
        return _digest(asdict(self))

    @property
    def slot(self) -> tuple[str | int, ...]:
        """Everything but the data's fingerprint: of two units in one slot, the later one counts."""
        return astuple(self)[:-1]


@dataclass(frozen=True)
class Records:
    """A frame per kind of row: per unit and class, per unit, per failed unit; ``unit`` joins them."""

    scores: DataFrame
    costs: DataFrame
    failures: DataFrame


class RecordStore:
    """The one writer of a records folder.

    The folder is locked from the first write until :meth:`close` (or the end of the ``with`` block or of the
    process). Reading needs no lock.

    Args:
        root: ``results/<dataset>/records``; created on the first write.

    Example:
        >>> import tempfile
        >>> unit = Unit(dataset="phantom", case="c1", attack="none", surrogate="unet", surrogate_sha256="ab",
        ...             target="unet", target_sha256="ab", protocol="robustvox-1", seed=0, data_sha256="")
        >>> scores = [dict(class_id=1, class_name="liver", dice=0.9, hd95_mm=2.0, nsd=0.8, status="ok")]
        >>> cost = dict(linf=0.0, l2=0.0, psnr=float("inf"), ssim=1.0, forwards=1, backwards=0, seconds=0.1,
        ...             flags=[], provenance="")
        >>> with tempfile.TemporaryDirectory() as folder, RecordStore(Path(folder)) as store:
        ...     store.append(unit, scores, cost)
        ...     len(unit.key), store.done(unit), len(load_records(Path(folder)).scores)
        (16, True, 1)
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._lock: int | None = None
        self._outcomes: dict[Path, dict[tuple, str | None]] = {}
        self._repaired: set[Path] = set()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; a later write takes it again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def done(self, unit: Unit) -> bool:
        """Whether this very unit was completed and not replaced since; failed units are not done."""
        return self._known(self._path(unit)).get(unit.slot) == unit.key

    def append(self, unit: Unit, scores: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
        """Write one completed unit.

        Args:
            unit: what was scored.
            scores: one mapping per foreground class with exactly ``class_id class_name dice hd95_mm nsd
                status``; distances in mm.
            cost: exactly ``linf l2 psnr ssim forwards backwards seconds flags provenance``.

        Raises:
            ValueError: on missing or unknown fields, no class or a class twice, values JSON cannot hold.
            RecordsError: if another process writes here, or the file is damaged.
        """
        ids = [row.get("class_id") for row in scores]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(f"scores: expected one row per foreground class, got class_id {ids}")
        rows = [_row("score", unit, row, _SCORE) for row in scores]
        self._write(unit, [*rows, _row("cost", unit, cost, _COST)], unit.key)

    def fail(self, unit: Unit, error: str) -> None:
        """Write that a unit could not be computed and why; the next run tries it again."""
        self._write(unit, [_row("failure", unit, {"error": error}, ("error",))], None)

    def provenance(self, entry: Mapping[str, Any]) -> str:
        """Store versions, hardware, command and the like once, and return the id the cost rows refer to.

        Args:
            entry: any JSON mapping with a key ``protocol``, which says where it is stored.

        Returns:
            The first 16 hex digits of the entry's SHA-256.

        Raises:
            ValueError: without ``protocol``, or on values JSON cannot hold.
        """
        if not isinstance(entry.get("protocol"), str):
            raise ValueError(f"provenance: expected a key 'protocol', got the keys {sorted(entry)}; add it")
        plain = _plain(entry)
        identity = _digest(plain)
        path = self.root / component(entry["protocol"]) / "provenance.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[:2] if path.exists() else ()
        data = b"".join(whole)
        if not any(_parse(line).get("id") == identity for line in data.splitlines()):
            self._acquire()
            _truncate(path, len(data))
            _append(path, _lines({"id": identity, "entry": plain}))
        return identity

    def _path(self, unit: Unit) -> Path:
        return self.root / records_file(unit.protocol, unit.surrogate, unit.attack)

    def _known(self, path: Path) -> dict[tuple, str | None]:
        if path not in self._outcomes:
            closing = [block[-1] for block, _ in _blocks(path)]
            self._outcomes[path] = {
                _slot(row): row["unit"] if row["kind"] == "cost" else None for row in closing
            }
        return self._outcomes[path]

    def _write(self, unit: Unit, rows: list[dict[str, Any]], key: str | None) -> None:
        data = _lines(*rows)
        path = self._path(unit)
        self._acquire()
        known = self._known(path)
        if path not in self._repaired:
            _truncate(path, max((end for _, end in _blocks(path)), default=0))
        # Marked as sound again only after success: an error in between (disk full) leaves a torn block.
        self._repaired.discard(path)
        _append(path, data)
        self._repaired.add(path)
        known[unit.slot] = key

    def _acquire(self) -> None:
        if self._lock is not None:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks, one writer remains the user's duty
            return
        handle = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise RecordsError(
                f"{self.root}: expected to be the only writer, but another run is writing here; wait for it, "
                "or give this one another --out folder"
            ) from error
        except OSError:  # a file system without locks, as some network mounts
            os.close(handle)
        else:
            self._lock = handle
            # Somebody else may have written since this store last looked.
            self._outcomes.clear()
            self._repaired.clear()


def load_records(root: Path) -> Records:
    """Read every complete block and failure under ``results/<dataset>/records``.

    A folder that does not exist has no records.

    Raises:
        RecordsError: if a line before a file's last one is not a record, naming file and line.
    """
    from pandas import DataFrame

    outcomes: dict[tuple, list[dict[str, Any]]] = {}
    for path in sorted(Path(root).glob("*/*/*.jsonl")):
        for block, _ in _blocks(path):
            slot = _slot(block[-1])
            outcomes.pop(slot, None)
            outcomes[slot] = block
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _COLUMNS}
    for block in outcomes.values():
        for row in block:
            rows[row["kind"]].append(row)
    frames = {kind: DataFrame(rows[kind], columns=list(columns)) for kind, columns in _COLUMNS.items()}
    types = dict.fromkeys(_NUMBERS, "float64") | dict.fromkeys(_INTEGERS, "int64")
    for kind, frame in frames.items():
        frames[kind] = frame.astype({name: types[name] for name in frame if name in types})
    return Records(frames["score"], frames["cost"], frames["failure"])


def _blocks(path: Path) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Complete blocks of a file, each with the byte offset where it ends."""
    pending: dict[int, dict[str, Any]] = {}
    end = 0
    lines = (path.read_bytes() if path.exists() else b"").split(b"\n")
    tail = lines.pop()  # empty, or a line that was never finished
    for number, line in enumerate(lines, start=1):
        end += len(line) + 1
        row = _parse(line)
        problem = _problem(row, pending)
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


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _problem(row: dict[str, Any], pending: dict[int, dict[str, Any]]) -> str:
    """Why a parsed line cannot be used as a record, or nothing."""
    if not row:
        return "something that is not a JSON object"
    columns = _COLUMNS.get(str(row.get("kind")))
    if columns is None:
        return f"kind {row.get('kind')!r}"
    for name in columns:
        if name not in row:
            return f"a {row['kind']} row without {name!r}"
        if not _fits(name, row[name]):
            return f"{name}={row[name]!r} in a {row['kind']} row"
    if row["kind"] == "cost" and not any(score["unit"] == row["unit"] for score in pending.values()):
        return "a cost row without score rows before it"
    return ""


def _fits(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return value is None or type(value) in (int, float)
    if name in _INTEGERS:
        return type(value) is int
    if name == "flags":
        return isinstance(value, list) and all(isinstance(flag, str) for flag in value)
    return isinstance(value, str)


def _slot(row: Mapping[str, Any]) -> tuple:
    return tuple(row[field.name] for field in fields(Unit) if field.name != "data_sha256")


def _row(kind: str, unit: Unit, values: Mapping[str, Any], expected: Sequence[str]) -> dict[str, Any]:
    if set(values) != set(expected):
        raise ValueError(f"{kind} row: expected the fields {sorted(expected)}, got {sorted(values)}")
    known = {"kind": kind, "unit": unit.key, **asdict(unit), **values}
    row = _plain({name: known[name] for name in _COLUMNS[kind]})
    problem = _problem(row, {0: row})
    if problem:
        raise ValueError(f"expected a valid {kind} row, got {problem}")
    return row


def _plain(value: Any) -> Any:
    """Values as JSON knows them: numpy scalars unwrapped, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"record: expected JSON values, got {value!r}; convert it to str, int or float")


def _digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def _lines(*rows: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(row, allow_nan=False).encode("ascii") + b"\n" for row in rows)


def _truncate(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
