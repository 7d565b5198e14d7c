"""From a run to the published results: what is wrong with it, and its rows added to theirs.

The published folder is text under version control, so what an addition changes is a diff that people read. A unit that
is published already stays as it is; one that says something else there is told and nothing is added.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..specs.program import pasted
from ..specs.tolerances import tolerance_of
from .outcomes import CheckOutcome, load_outcomes, save
from .provenance import devices_of
from .reading import Records, load_records, read_blocks, read_bytes
from .rows import parse_line
from .sources import PUBLISHED, SOURCE
from .store import RecordStore
from .writing import replace_file

STUDIES = ("frequency", "marking", "stealing")
"""Folders beside the records that hold tables of their own; they are copied, not merged."""

_TEXTS = (".csv", ".json", ".jsonl", ".md", ".svg", ".tex")

_NOTE = (
    '{"note": "What lies here is written by `python -m benchmark leaderboard --publish RUN` alone; '
    'runs go to runs/."}\n'
)


@dataclass(frozen=True)
class Addition:
    """What a dataset of a run added.

    Attributes:
        dataset: its folder.
        rows: units that were not there.
        known: units that were.
        checks: outcomes of checks.
    """

    dataset: str
    rows: int
    known: int
    checks: int


def conflicts(run: Path, published: Path) -> Iterator[str]:
    """Units of a run that say something else than the published ones, a line each.

    Args:
        run, published: folders ``<dataset>`` with ``records`` below.
    """
    mine, theirs = load_records(run / "records"), load_records(published / "records")
    here, there = read_bytes(run / SOURCE), read_bytes(published / SOURCE)
    if here and there and here != there:
        yield f"{run}: expected the dataset of {published}, got another one of this name; rename its folder"
    known = dict(zip(theirs.costs["case"], theirs.costs["data_sha256"], strict=True))
    for case, sha256 in dict(zip(mine.costs["case"], mine.costs["data_sha256"], strict=True)).items():
        if known.get(case, sha256) != sha256:
            yield (
                f"{run}: expected {case} with data {known[case][:16]} as published, got {sha256[:16]}; this copy of "
                f"the case is another one, see `{pasted(['data', '--dataset', run.name])}`"
            )
    yield from _apart(run, published, mine, theirs)


def _apart(run: Path, published: Path, mine: Records, theirs: Records) -> Iterator[str]:
    keys = ["unit", "class_id"]
    mine_on, theirs_on = _devices(run, mine), _devices(published, theirs)
    elsewhere = {unit for unit, device in mine_on.items() if theirs_on.get(unit, device) != device}
    both: Any = mine.scores.merge(theirs.scores[[*keys, "dice"]], on=keys, suffixes=("", "_there"))
    here, there = both["dice"].to_numpy(), both["dice_there"].to_numpy()
    gap = np.where(np.isnan(here) & np.isnan(there), 0.0, np.abs(here - there))
    far = ~(
        gap
        <= [
            tolerance_of(attack, elsewhere=unit in elsewhere)
            for attack, unit in zip(both["attack"], both["unit"], strict=True)
        ]
    )
    for row in both[far].to_dict("records"):
        yield (
            f"{run}, unit {row['unit']}: expected Dice {row['dice_there']} of {row['class_name']} as published, got "
            f"{row['dice']} ({row['case']}, {row['attack']}, {row['surrogate']} on {row['target']}); one of them is wrong"
        )


def _devices(folder: Path, records: Records) -> dict[str, str]:
    """Kind of device of every unit."""
    known = devices_of(folder / "records")
    pairs = zip(records.costs["unit"], records.costs["provenance"], strict=True)
    return {unit: known.get(identity, "cpu") for unit, identity in pairs}


def add(run: Path, published: Path) -> Addition:
    """Add a dataset's records, outcomes of checks and tables of studies to the published ones.

    Args:
        run, published: folders ``<dataset>``; the latter is made where it is not there.

    Raises:
        RecordsError: damaged records, or another writer.
    """
    published.mkdir(parents=True, exist_ok=True)
    added = known = 0
    with RecordStore(published / "records") as store:
        named: set[str] = set()
        for path in sorted((run / "records").glob("*/*/*.jsonl")):
            for block, _ in read_blocks(path):
                written = store.copy(block)
                added, known = added + written, known + (not written)
                named |= {str(block[-1].get("provenance", ""))} if written else set()
        for path in sorted((run / "records").glob("*/provenance.jsonl")):
            for line in map(parse_line, read_bytes(path).splitlines()):
                if line.get("id") in named:
                    store.provenance(line["entry"])
    outcomes = [_outcome(entry) for entry in load_outcomes(run / "checks").to_dict("records")]
    if outcomes:
        save(published / "checks", outcomes)
    for path in _texts(run):
        place = published / path.relative_to(run)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return Addition(run.name, added, known, len(outcomes))


def mark_published(results: Path) -> None:
    """From now on nothing but a publication writes there."""
    if not (results / PUBLISHED).is_file():
        replace_file(results / PUBLISHED, _NOTE)


def _outcome(entry: dict[Any, Any]) -> CheckOutcome:
    number = entry["number"]
    return CheckOutcome(
        **{
            **entry,
            "number": None if number is None or np.isnan(number) else float(number),
            "cases": tuple(entry["cases"]),
        }
    )


def _texts(run: Path) -> Iterator[Path]:
    if (run / SOURCE).is_file():
        yield run / SOURCE
    for study in STUDIES:
        for path in sorted((run / study).rglob("*")):
            if path.suffix in _TEXTS and path.is_file() and "copies" not in path.parts:
                yield path
