"""Append-only records of everything that was scored: JSON lines that survive a kill at any byte.

Layout under ``results/<dataset>/records``::

    <protocol>/provenance.jsonl               versions, hardware, command; each entry once
    <protocol>/<surrogate>/<attack>.jsonl     "clean.jsonl" for the clean images

A unit (one case, attacked on one surrogate, scored on one target) is a line, behind the lines that define what it
shares with others, see :mod:`.compact`; so is a unit that failed. They are written in one piece, flushed and synced;
what a kill leaves (a torn last line, definitions that no unit uses) is ignored when reading and cut off before the next
append. For the same case, attack, checkpoints, protocol and seed the last unit or failure in the file counts, so changed
data replaces its old result and a success its failure.

Files of the first form, a row per class and one of cost, are read and appended to; ``migrate`` makes them compact.

NaN and infinite numbers are null in the files and NaN in the frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..specs.names import component
from .compact import Definitions, write_lines
from .lock import FolderLock
from .paths import records_file
from .reading import read_blocks, read_bytes, scan
from .rows import COST, SCORE, encode, make_row, parse_line, plain, slot_of
from .unit import Unit, digest


class Took(NamedTuple):
    """Seconds of one recorded volume: whose, by which attack, in which run."""

    surrogate_sha256: str
    attack: str
    seconds: float
    provenance: str


class RecordStore:
    """The one writer of a records folder.

    The folder is locked from the first write until :meth:`close` (or the end of the ``with`` block or of the
    process). Reading needs no lock.

    Args:
        root: ``results/<dataset>/records``; created on the first write.

    Example:
        >>> import tempfile
        >>> from robustvox.benchmark.records import load_records
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
        self._lock = FolderLock(self.root)
        self._outcomes: dict[Path, dict[tuple, str]] = {}
        self._defined: dict[Path, Definitions] = {}
        self._took: dict[Path, list[Took]] = {}

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; a later write takes it again."""
        self._lock.release()

    def lock(self, wait_s: float = 0.0, tell: Callable[[str], None] | None = None) -> None:
        """Become the one writer now, before anything is computed.

        Args:
            wait_s: how long another process may still take, in seconds.
            tell: hears whom this waits for.

        Raises:
            RecordsError: another process writes here.
        """
        if not self._lock.held:
            self._lock.acquire(wait_s, tell)
            # Somebody else may have written since this store last looked.
            self._outcomes.clear()
            self._defined.clear()
            self._took.clear()

    def done(self, unit: Unit) -> bool:
        """Whether this very unit was completed and not replaced since; failed units are not done."""
        return self._known(self._path(unit)).get(unit.slot) == unit.key

    def took(self, protocol: str, surrogate: str, attack: str) -> Sequence[Took]:
        """How long it took to craft the volumes that are recorded of attacks of this kind on a model."""
        path = self.root / records_file(protocol, surrogate, attack)
        self._known(path)
        return self._took[path]

    def append(self, unit: Unit, scores: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
        """Write one completed unit.

        Args:
            unit: what was scored.
            scores: one mapping per foreground class with exactly ``class_id class_name dice hd95_mm nsd
                status``; distances in mm.
            cost: exactly ``linf l2 psnr ssim forwards backwards seconds flags provenance``, ``patient`` where that
                is not the case, and for attacked images ``asr_voxel asr_foreground``, see :func:`~robustvox.benchmark.metrics.success.voxel_success`.

        Raises:
            ValueError: on missing or unknown fields, no class or a class twice, values JSON cannot hold.
            RecordsError: if another process writes here, or the file is damaged.
        """
        ids = [row.get("class_id") for row in scores]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(f"scores: expected one row per foreground class, got class_id {ids}")
        rows = [make_row("score", unit, row, SCORE) for row in scores]
        self._write(unit, [*rows, make_row("cost", unit, cost, COST)])

    def fail(self, unit: Unit, error: str) -> None:
        """Write that a unit could not be computed and why; the next run tries it again.

        A failure that is the last thing known of the unit is not written twice.
        """
        row = make_row("failure", unit, {"error": error}, ("error",))
        self.lock()
        if self._known(self._path(unit)).get(unit.slot) != _outcome(row):
            self._write(unit, [row])

    def copy(self, block: Sequence[Mapping[str, Any]]) -> bool:
        """Write a block that was read elsewhere, unless its unit is done here; whether it was written.

        Args:
            block: as :func:`~robustvox.benchmark.records.reading.read_blocks` gives it.
        """
        rows = [dict(row) for row in block]
        path = self.root / records_file(*(rows[-1][name] for name in ("protocol", "surrogate", "attack")))
        self.lock()
        known = self._known(path).get(slot_of(rows[-1]), "")
        failed = rows[-1]["kind"] == "failure"
        if known == _outcome(rows[-1]) or (failed and known and " failed: " not in known):
            return False  # a failure takes no result away
        self._write_to(path, rows)
        return True

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
        stored = plain(entry)
        identity = digest(stored)
        path = self.root / component(entry["protocol"]) / "provenance.jsonl"
        data = b"".join(read_bytes(path).rpartition(b"\n")[:2])
        if not any(parse_line(line).get("id") == identity for line in data.splitlines()):
            self.lock()
            _truncate(path, len(data))
            _append(path, encode({"id": identity, "entry": stored}))
        return identity

    def _path(self, unit: Unit) -> Path:
        return self.root / records_file(unit.protocol, unit.surrogate, unit.attack)

    def _known(self, path: Path) -> dict[tuple, str]:
        if path not in self._outcomes:
            closing = [block[-1] for block, _ in read_blocks(path)]
            self._outcomes[path] = {slot_of(row): _outcome(row) for row in closing}
            self._took[path] = [
                Took(row["surrogate_sha256"], row["attack"], float(row["seconds"] or 0.0), row["provenance"])
                for row in closing
                if row["kind"] == "cost"
            ]
        return self._outcomes[path]

    def _write(self, unit: Unit, rows: list[dict[str, Any]]) -> None:
        self._write_to(self._path(unit), rows)

    def _write_to(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.lock()
        known = self._known(path)
        if path not in self._defined:
            _truncate(path, max((end for _, end in read_blocks(path)), default=0))
            self._defined[path] = defined = Definitions()
            for _ in scan(path, defined):
                pass
        # Believed again only after success: an error in between (disk full) leaves a torn line.
        defined = self._defined.pop(path)
        _append(path, write_lines(defined.new_lines(rows)))
        self._defined[path] = defined
        known[slot_of(rows[-1])] = _outcome(rows[-1])


def _outcome(row: Mapping[str, Any]) -> str:
    """What a closing row says of its slot: the unit that is done, or why it failed."""
    return row["unit"] if row["kind"] == "cost" else f"{row['unit']} failed: {row['error']}"


def _truncate(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
