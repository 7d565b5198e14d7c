"""Whether the rows of a records folder are whole: nothing dropped, nothing renamed.

Records are text that anyone can edit, so three things hold them together. A row's unit is the hash of its identity:
a row whose case, attack or checkpoint was changed no longer fits its unit. A provenance entry says what its run
crossed: every case, attack, surrogate and target of it has a row, be it of a failure. The entries of older versions do
not list cases: there, the cases that a surrogate, target and attack lack beside the others of the same run are found.
Numbers are held by the committed tables (``leaderboard --check``) and by ``verify``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..specs.names import component
from ..specs.spec import CLEAN, UsageError
from .paths import records_file
from .provenance import read_entries
from .reading import Records
from .schema import Crossed
from .unit import Unit

Slot = tuple[str, str, str, str, int]  # case, attack, surrogate sha256, target sha256, seed


_UNIT = tuple(Unit.__dataclass_fields__)


def record_folders(path: Path) -> list[Path]:
    """The records folders that a path means: itself, of one dataset, or of every dataset below.

    Raises:
        UsageError: if there is none.

    Example:
        >>> [str(folder) for folder in record_folders(Path("no/such/folder"))]
        Traceback (most recent call last):
        robustvox.benchmark.specs.spec.UsageError: expected a folder of records at no/such/folder, found none; ...
    """
    path = Path(path)
    below = [path / "records", *sorted(path.glob("*/records"))]
    found = [folder for folder in below if folder.is_dir()] or (
        [path] if any(path.glob("*/*/*.jsonl")) else []
    )
    if not found:
        raise UsageError(
            f"expected a folder of records at {path}, found none; give results, results/<dataset> or a submitted folder"
        )
    return found


def locate(folder: Path, unit: Unit) -> str:
    """File and line of a unit's last row, as ``path, line 7``."""
    path = folder / records_file(unit.protocol, unit.surrogate, unit.attack)
    mark = re.compile(f'"unit": ?"{unit.key}"')
    lines = path.read_text("utf-8", "replace").split("\n") if path.is_file() else []
    numbers = [number for number, line in enumerate(lines, start=1) if mark.search(line)]
    return f"{path}, line {numbers[-1]}" if numbers else str(path)


def labelled(name: str, sha256: str) -> str:
    """A model's name where another checkpoint of the same run has it too.

    Example:
        >>> labelled("unet", "0123456789abcdef")
        'unet@01234567'
    """
    return f"{name}@{sha256[:8]}"


def row_problems(folder: Path, records: Records) -> list[str]:
    """Everything that is wrong with the identity and the completeness of the rows, one line each."""
    return [*_renamed(folder, records), *_damaged(folder), *_missing(folder, records)]


def _renamed(folder: Path, records: Records) -> Iterator[str]:
    """Rows whose unit is not the hash of what they say they are."""
    closing = [*_dicts(records.costs), *_dicts(records.failures)]
    for row in closing:
        unit = _unit(row)
        if unit.key != row["unit"]:
            path = folder / records_file(unit.protocol, unit.surrogate, unit.attack)
            yield (
                f"{path}, unit {row['unit']}: expected the hash of the row's own identity, {unit.key}, for {unit.case}, "
                f"{unit.attack}, {unit.surrogate} on {unit.target}; the row was edited, restore it"
            )
    costs = records.costs.set_index("unit")
    shown = ["case", "attack", "surrogate", "target", "protocol", "seed"]
    scores = records.scores.drop_duplicates(["unit", *shown])
    same = scores[shown].to_numpy() == costs.loc[scores["unit"], shown].to_numpy()
    for row in _dicts(scores[~same.all(axis=1)]):
        path = folder / records_file(row["protocol"], row["surrogate"], row["attack"])
        yield (
            f"{path}, unit {row['unit']}: expected class rows of the case and attack of their closing row, got {row['case']}, "
            f"{row['attack']}; the row was edited, restore it"
        )


def orphans(folder: Path, records: Records) -> Iterator[str]:
    """Rows of a run that nothing is known of: its provenance is gone, or says other models or cases.

    What is published or handed in has none; rows that somebody made in Python may.
    """
    crossed = {
        protocol: {
            identity: entry for identity, entry in _entries(folder / component(protocol) / "provenance.jsonl")
        }
        for protocol in {*records.costs["protocol"]}
    }
    told: set[tuple[str, ...]] = set()
    for row in _dicts(records.costs):
        identity, entry = row["provenance"], crossed[row["protocol"]].get(row["provenance"])
        group = (row["protocol"], identity, row["surrogate"], row["target"], row["attack"])
        if group in told or (entry is not None and _of(row, entry)):
            continue
        told.add(group)
        path = folder / records_file(row["protocol"], row["surrogate"], row["attack"])
        wanted = "that crossed it" if entry is not None else "in provenance.jsonl"
        yield (
            f"{path}, unit {row['unit']}: expected the run {identity or '(none)'} {wanted}, found none; restore the "
            "line, or run the command again"
        )


def _of(row: dict[str, Any], entry: Crossed) -> bool:
    """Whether a run scored this model, and this case where it lists them; the attacked one may be known from a file."""
    models = {*entry.models.values()}
    return (not models or row["target_sha256"] in models) and (
        entry.cases is None or row["case"] in entry.cases
    )


def _missing(folder: Path, records: Records) -> Iterator[str]:
    """Rows that a run must have written and that are not there."""
    closing = [*_dicts(records.costs), *_dicts(records.failures)]
    names = {row[f"{role}_sha256"]: row[role] for row in closing for role in ("surrogate", "target")}
    for protocol in sorted({row["protocol"] for row in closing} | _protocols(folder)):
        mine = [row for row in closing if row["protocol"] == protocol]
        present = {_slot(row) for row in mine}
        path = folder / component(protocol) / "provenance.jsonl"
        reported: set[Slot] = set()
        for identity, entry in _entries(path):
            # As in the rows and the names of their files.
            names |= {
                sha256: name.removesuffix(labelled("", sha256)) for name, sha256 in entry.models.items()
            }
            wanted = _alike(identity, mine) if entry.cases is None else _crossed(entry)
            for slot in sorted(set(wanted) - present - reported):
                reported.add(slot)
                case, attack, surrogate, target, _ = slot
                file = records_file(protocol, names.get(surrogate, surrogate), attack)
                yield (
                    f"{folder / file}: expected a row of {case}, {attack}, {names.get(surrogate, surrogate)} on "
                    f"{names.get(target, target)}, as the run {identity} of {path.name} says, found none; restore it, "
                    "or run that command again"
                )


def _crossed(entry: Crossed) -> Iterator[Slot]:
    """What a run crossed, clean images included, by its provenance."""
    seed, models = entry.seed, entry.models
    for case in entry.cases or ():
        for sha256 in models.values():
            yield case, CLEAN, sha256, sha256, seed
        for attack in entry.attacks:
            for surrogate in entry.surrogates:
                targets = [surrogate] if entry.white_box else entry.targets
                for target in targets:
                    yield case, attack, models[surrogate], models[target], seed


def _alike(identity: str, rows: Iterable[dict[str, Any]]) -> set[Slot]:
    """Of a run that did not list its cases: every group of it has all cases that any group of it has."""
    slots = {_slot(row) for row in rows if row.get("provenance") == identity}
    cases = {slot[0] for slot in slots}
    return {(case, *slot[1:]) for slot in slots for case in cases}


def _protocols(folder: Path) -> set[str]:
    return {entry.protocol for path in folder.glob("*/provenance.jsonl") for _, entry in _entries(path)}


def _entries(path: Path) -> Iterator[tuple[str, Crossed]]:
    return (found for found in read_entries(path) if not isinstance(found, str))


def _damaged(folder: Path) -> Iterator[str]:
    """Lines of provenance that are none, or say something else than when they were written."""
    for path in sorted(folder.glob("*/provenance.jsonl")):
        yield from (found for found in read_entries(path) if isinstance(found, str))


def _dicts(frame: Any) -> list[dict[str, Any]]:
    return frame.to_dict("records")


def _unit(row: dict[str, Any]) -> Unit:
    return Unit(**{name: row[name] for name in _UNIT if name != "seed"}, seed=int(row["seed"]))


def _slot(row: dict[str, Any]) -> Slot:
    return row["case"], row["attack"], row["surrogate_sha256"], row["target_sha256"], int(row["seed"])
