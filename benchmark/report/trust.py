"""How far a run can be trusted: checks, patients, what was not tried, how it was computed, what flags mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..plan.attacks import short_name
from ..plan.plan import Plan
from ..records.reading import Frame
from ..show.page.flags import QUESTIONS, explain, meaning
from .evidence import Evidence, Row
from .tables import Cell, Table

_LISTED = 6  # checks that nobody computed, named in a cell


def states_table(found: Iterable[Evidence]) -> Table:
    """What is known of every attacked row, in a word, and why."""
    rows, kinds = [], []
    for model in found:
        for row in (*model.rows, *model.others):
            if row.noise:
                continue
            name = model.model if row.surrogate == model.model else f"{row.surrogate} → {model.model}"
            cells = (name, row.label, row.state, _found(row), _lacking(row))
            rows.append(tuple(Cell(text, kind) for text, kind in zip(cells, _KINDS, strict=True)))
            kinds.append("fail" if row.broken else "")
    return Table(
        "Checks",
        ("model", "attack", "checks", "what failed", "suite still asks for"),
        tuple(rows),
        tuple(kinds),
    )


_KINDS = ("word", "word", "", "text", "text")


def _found(row: Row) -> str:
    if not row.checked:
        return "not checked yet"
    return "; ".join(f"{check}: {meaning(check)}" for check in row.broken) or "nothing"


def _lacking(row: Row) -> str:
    if not row.lacking:
        return "nothing"
    more = len(row.lacking) - _LISTED
    return ", ".join(row.lacking[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def check_groups(known: Frame, plan: Plan) -> list[dict[str, Any]]:
    """Per attacked model and attack of the run, what ``check`` has found so far."""
    known = known[(known["dataset"] == plan.dataset.name) & (known["protocol"] == plan.protocol.name)]
    groups = []
    for model in {m.key: m for m in plan.surrogates}.values():
        for attack in plan.attacks:
            mine = known[(known["surrogate_sha256"] == model.sha256) & (known["attack"] == attack.spec)]
            found, label = mine.to_dict("records"), short_name(attack.spec)
            groups.append(
                {
                    "name": f"{model.shown}, {label}",
                    "flags": [entry["flag"] for entry in found if entry["flag"]],
                    "found": len(found),
                    "table": outcomes_table(f"Checks of {model.shown}, {label}", found),
                }
            )
    return groups


def outcomes_table(name: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """What checks found, an outcome a row."""
    rows = tuple(
        (
            Cell(entry["check"], ""),
            Cell(str(QUESTIONS.get(entry["check"], entry["slug"])), "text"),
            Cell(entry["status"], ""),
            Cell(entry["detail"], "text"),
            Cell(entry["rule"], "text"),
        )
        for entry in found
    )
    kinds = tuple(str(entry["status"]) for entry in found)
    return Table(name, ("id", "question", "status", "found", "rule"), rows, kinds)


def flags_explained(found: Iterable[Evidence]) -> list[tuple[str, str]]:
    """Flags of rows with what they mean; those of checks are told beside the checks."""
    flags = {flag for model in found for row in (*model.rows, *model.others) for flag in row.flags}
    return [(flag, explain(flag)) for flag in sorted(flags) if flag.partition(":")[0] not in QUESTIONS]


def sample(found: Iterable[Evidence], plan: Plan) -> str:
    """What the number of cases and patients comes to."""
    scored = [model for model in found if model.patients]
    if not scored:
        return "No attacked case has a score."
    cases = max(row.cases for model in scored for row in model.rows)
    patients = max(model.patients for model in scored)
    of = f"{cases} case{'' if cases == 1 else 's'} of {patients} patient{'' if patients == 1 else 's'}"
    asked = len(plan.cases)
    said = of if cases == asked else f"{of} (asked for {asked})"
    return f"{said}. Patients count, not frames: two frames of one patient are no two answers."


def computed(environment: Mapping[str, Any], device: str) -> str:
    """Device and precision, and what follows from them."""
    compute = environment.get("compute") or {}
    precision = str(compute.get("precision", "float32"))
    accelerator = str(environment.get("accelerator", "none"))
    where = f"{device} ({accelerator})" if accelerator not in ("none", "") and device != "cpu" else device
    said = f"Networks ran on {where} in {precision}; attacks and scores are float32 and float64 whatever the network is."
    if precision != "float32":
        said += " Lower precision may hide gradients, which check C23 measures."
    return said
