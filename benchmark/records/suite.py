"""Which rows of the records count in a suite, and which ones only look as if they did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..specs.suites import SUITES, Suite
from .paths import records_file
from .reading import Records


def admitted(records: Records, suite: Suite) -> Records:
    """The rows of a suite: its protocol, attacks and seed, and of frozen cases the very data and classes.

    Returns:
        Records with fewer rows; whether a model has all of them is another question.
    """
    costs: Any = records.costs
    wanted = {row.spec for row in suite.rows}
    keep = (costs["protocol"] == suite.name) & costs["attack"].isin(wanted) & (costs["seed"] == suite.seed)
    for dataset in set(costs.loc[keep, "dataset"]):
        frozen = suite.cases(dataset)
        if frozen is not None:
            same = costs["case"].map(frozen.data) == costs["data_sha256"]
            whole = costs["unit"].isin(_whole(records, frozen.classes))
            keep &= (costs["dataset"] != dataset) | (same & whole)
    scores: Any = records.scores
    units = sorted(set(costs.loc[keep, "unit"]))
    failures: Any = records.failures
    failed = (failures["protocol"] == suite.name) & failures["attack"].isin(wanted)
    return Records(
        scores[scores["unit"].isin(units)],
        costs[keep],
        failures[failed & (failures["seed"] == suite.seed)],
    )


def impostors(folder: Path, records: Records) -> Iterator[str]:
    """Rows of a frozen case that are of other data, or lack a class, one line per file.

    Args:
        folder: ``results/<dataset>/records``.
        records: what was read there.
    """
    for suite in SUITES.values():
        costs: Any = records.costs[records.costs["protocol"] == suite.name]
        for dataset in sorted(set(costs["dataset"])):
            frozen = suite.cases(dataset)
            if frozen is None:
                continue
            mine = costs[costs["dataset"] == dataset]
            names = {sha256: case for case, sha256 in frozen.data.items()}
            other = mine["case"].map(frozen.data).notna() & (
                mine["case"].map(frozen.data) != mine["data_sha256"]
            )
            renamed = mine["data_sha256"].map(names).notna() & (
                mine["data_sha256"].map(names) != mine["case"]
            )
            yield from _told(folder, mine[other], "the volume of this name that the suite has", "another one")
            yield from _told(
                folder, mine[renamed], "a case of the suite under its own name", "it under another"
            )
            lacking = mine["case"].isin(frozen.data) & ~mine["unit"].isin(_whole(records, frozen.classes))
            yield from _told(folder, mine[lacking], f"the classes {', '.join(frozen.classes)}", "others")


def _whole(records: Records, classes: tuple[str, ...]) -> set[str]:
    """Units that have every class once and no other."""
    scores: Any = records.scores
    named = scores.groupby("unit")["class_name"].agg(lambda names: tuple(sorted(names)))
    return set(named.index[[names == tuple(sorted(classes)) for names in named]])


def _told(folder: Path, rows: Any, wanted: str, found: str) -> Iterator[str]:
    for keys, group in rows.groupby(["protocol", "surrogate", "attack"], sort=True):
        first = group.iloc[0]
        more = f" ({len(group)} rows)" if len(group) > 1 else ""
        yield (
            f"{folder / records_file(*keys)}, unit {first['unit']}: expected {wanted}, got {found}: "
            f"{first['case']}{more}; measure it again on the dataset's own files"
        )
