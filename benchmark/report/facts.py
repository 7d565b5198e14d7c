"""What a report says, as plain text and numbers; the template only arranges it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..harness.bench import Bench
from ..harness.execute import Event, Status
from ..plan.attacks import brief, short_name
from ..plan.plan import Plan
from ..records.outcomes import load_flags, load_outcomes
from ..records.reading import Frame, Records
from ..records.states import load_states
from ..show.tables import results as tables
from ..specs.durations import duration
from .reading import reading_of

if TYPE_CHECKING:
    from .gallery import FirstCase


_LISTED = 4  # jobs that are named where many failed for one reason


# heading: columns of the table, joined by a word; digits; factor
_COLUMNS = {
    "cases": (("n_cases",), "", 0, 1.0),
    "failed": (("failed",), "", 0, 1.0),
    "Dice clean": (("dice_clean",), "", 3, 1.0),
    "Dice attacked": (("dice_adv",), "", 3, 1.0),
    "95% interval": (("dice_adv_low", "dice_adv_high"), " to ", 3, 1.0),
    "HD95 mm, clean → attacked": (("hd95_clean_mm", "hd95_adv_mm"), " → ", 1, 1.0),
    "NSD, clean → attacked": (("nsd_clean", "nsd_adv"), " → ", 3, 1.0),
    "organs lost, invented": (("missing", "hallucinated"), ", ", 0, 1.0),
    "L∞ (1/255)": (("linf",), "", 2, 255.0),
    "L2": (("l2",), "", 2, 1.0),
    "PSNR (dB)": (("psnr",), "", 1, 1.0),
    "SSIM": (("ssim",), "", 3, 1.0),
    "forwards, backwards": (("forwards", "backwards"), ", ", 0, 1.0),
    "seconds per case": (("seconds",), "", 1, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Args:
        bench: holds the plan, what was crossed.
        events: what happened to every job.
        records: those of this run's units.
        environment: what :func:`robustvox.benchmark.records.provenance.describe` found.
        provenance: id of the environment beside the records.
        out: folder of all results.
        started: seconds since the epoch.
        seconds: how long it took.
        gallery: holds the case to show.
    """

    bench: Bench
    events: Sequence[Event]
    records: Records
    environment: Mapping[str, Any]
    provenance: str
    out: Path
    started: float
    seconds: float
    gallery: FirstCase

    @property
    def folder(self) -> Path:
        """``<out>/<dataset>``."""
        return self.out / self.bench.plan.dataset.name


def facts(run: Run) -> dict[str, Any]:
    """Everything the template needs but the figures."""
    plan = run.bench.plan
    flags, states = load_flags(run.folder / "checks"), load_states(run.folder / "checks")
    named = list(zip(("White-box", "Transfer"), tables.both(run.records, flags, states), strict=True))
    counts = {status.value: sum(e.status is status for e in run.events) for status in Status}
    return {
        "dataset": plan.dataset.name,
        "protocol": plan.protocol.name,
        "command": run.environment["command"],
        "counts": counts,
        "duration": duration(run.seconds),
        "tables": [{"title": title, **results(table)} for title, table in named if len(table)],
        "frames": [table for _, table in named if len(table)],
        "failures": failures(run.events),
        "checks": checks(run),
        "check_command": _check_command(plan),
        "environment": _environment(run),
        "models": [
            (f"{m.label} ({m.name})" if m.label else m.name, m.sha256 or "unknown") for m in plan.models
        ],
        "readings": [(m.shown, lines) for m in plan.models if (lines := reading_of(run.bench, m))],
        "attacks": [a.spec for a in plan.attacks],
        "cases": list(plan.cases),
        "data": sorted((str(k).replace("_", " "), str(v)) for k, v in plan.dataset.provenance.items()),
        "seed": plan.seed,
    }


def results(table: Frame) -> dict[str, Any]:
    """Headings and rows of a table of results, rounded; the attack short and whole."""
    rows = [
        {
            "models": [row["surrogate"]]
            if row["surrogate"] == row["target"]
            else [row["surrogate"], row["target"]],
            "attack": short_name(str(row["attack"])),
            "spec": str(row["attack"]),
            "cells": [
                *(
                    word.join(dict.fromkeys(_number(row[name], digits, factor) for name in names))
                    if all(row[name] != row[name] for name in names)  # said once that there is none
                    else word.join(_number(row[name], digits, factor) for name in names)
                    for names, word, digits, factor in _COLUMNS.values()
                ),
                str(row["checks"]),
            ],
            "flags": [flag for flag in str(row["flags"]).split(";") if flag],
        }
        for row in table.to_dict("records")
    ]
    return {
        "headings": [*_COLUMNS, "checks"],
        "rows": rows,
        "pairs": any(len(row["models"]) > 1 for row in rows),
    }


def failures(events: Sequence[Event]) -> list[dict[str, str]]:
    """What failed and why, in the order of the run; jobs of one case with one reason together."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event.failed:
            job = event.job
            saved = f"saved volume {job.saved.path.name}" if job.saved else "clean image"
            attack = short_name(job.attack.spec) if job.attack else saved
            models = [job.surrogate.shown] if job.surrogate else [target.shown for target in job.targets]
            grouped.setdefault((job.case, event.error), []).append(f"{attack} on {', '.join(models)}")
    return [
        {
            "case": case,
            "what": "; ".join(jobs[:_LISTED])
            + (f"; {len(jobs) - _LISTED} more" if len(jobs) > _LISTED else ""),
            "reason": reason,
        }
        for (case, reason), jobs in grouped.items()
    ]


def checks(run: Run) -> list[dict[str, Any]]:
    """Per attacked model and attack of the run, what ``check`` has found so far."""
    known: Frame = load_outcomes(run.folder / "checks")
    plan = run.bench.plan
    known = known[(known["dataset"] == plan.dataset.name) & (known["protocol"] == plan.protocol.name)]
    groups = []
    for model in {m.key: m for m in plan.surrogates}.values():
        for attack in plan.attacks:
            mine = known[(known["surrogate_sha256"] == model.sha256) & (known["attack"] == attack.spec)]
            found = mine.to_dict("records")
            worst = [entry["flag"] for entry in found if entry["flag"]]
            groups.append(
                {"model": model.shown, "attack": short_name(attack.spec), "found": found, "flags": worst}
            )
    return groups


def shown_costs(run: Run) -> Frame:
    """Rows of cost and budget of the case that the gallery shows, one per target; empty when it shows none."""
    costs: Frame = run.records.costs
    shown = run.gallery.attacked
    if shown is None or shown.job.attack is None or shown.job.surrogate is None:
        return costs.iloc[:0]
    return costs[
        (costs["case"] == shown.job.case)
        & (costs["attack"] == shown.job.attack.spec)
        & (costs["surrogate_sha256"] == shown.job.surrogate.sha256)
    ]


def _check_command(plan: Plan) -> str:
    models = dict.fromkeys(m.name for m in plan.surrogates)
    words = ["python", "-m", "benchmark", "check"]
    words += [word for name in models for word in ("--model", name)]
    words += [word for attack in plan.attacks for word in ("--attack", brief(attack.spec))]
    return shlex.join([*words, "--dataset", plan.dataset.name])


def _environment(run: Run) -> list[tuple[str, str]]:
    import time

    known = dict(run.environment)
    packages = known.get("packages", {})
    started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.started))
    return [
        ("started", f"{started}, took {duration(run.seconds)}"),
        ("robustvox", f"{known['robustvox']}, commit {known['commit']}"),
        ("python", str(known["python"])),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("platform", str(known["platform"])),
        ("accelerator", str(known["accelerator"])),
        ("cores, threads", f"{known['cores']}, {known['threads']}"),
        ("device of the networks", run.bench.plan.device),
        ("id beside the records", run.provenance),
    ]


def _number(value: Any, digits: int, factor: float = 1.0) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value * factor:.{digits}f}"
