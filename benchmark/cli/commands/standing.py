"""What the records of one model amount to: its numbers over the suite, and what keeps it from being ranked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...records.coverage import orphans, row_problems
from ...records.reading import load_records
from ...records.states import UNCHECKED
from ...records.submission import Claims
from ...records.suite import impostors
from ...show.budgets import overruns
from ...show.files import load_board
from ...show.page.ranking import rank
from ...specs.spec import UsageError


@dataclass(frozen=True)
class Standing:
    """What the records of a folder say of the one model in them.

    Attributes:
        model, sha256: whose rows they are.
        claims: its numbers, for every dataset on which it has the whole suite.
        problems: what keeps it from being ranked, one line each.
    """

    model: str
    sha256: str
    claims: Claims
    problems: tuple[str, ...]


def standing_of(runs: list[Path], protocol: str) -> Standing:
    """What runs of one model amount to.

    Args:
        runs: folders ``<dataset>``.
        protocol: whose suite is asked for.

    Raises:
        UsageError: rows of several models, or none.
    """
    problems = [text for run in runs for text in _unsound(run)]
    models: set[tuple[str, str]] = set()
    for run in runs:
        costs: Any = load_records(run / "records").costs
        models |= {*zip(costs["surrogate"], costs["surrogate_sha256"], strict=True)}
    if len(models) != 1:
        names = ", ".join(sorted(name for name, _ in models)) or "none"
        raise UsageError(
            f"expected the rows of one model, got those of {names}; measure it alone: `suite --model NAME --out FOLDER`"
        )
    ((model, sha256),) = models
    claims: dict[str, tuple[float, float]] = {}
    for run in runs:
        ranking = rank(load_board(run), protocol)
        for place in ranking.places:
            claims[run.name] = (place.clean, place.worst)
            if place.checks == UNCHECKED:
                problems.append(
                    f"{model} on {run.name}: expected every check of the suite, which `suite` computes"
                )
        for unranked in ranking.unranked:
            problems.append(
                f"{model} on {run.name}: expected the whole suite of {protocol}, lacks {unranked.lacks}; {unranked.command}"
            )
    return Standing(model, sha256, claims, tuple(problems))


def _unsound(run: Path) -> Iterator[str]:
    records = load_records(run / "records")
    for look in (row_problems, orphans, impostors, overruns):
        yield from look(run / "records", records)
