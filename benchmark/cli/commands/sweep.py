"""What ``run --config FILE`` does: everything is looked up before anything is computed, then run after run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...plan.attacks import load_attack
from ...plan.build import build_plan
from ...plan.cases import load_dataset
from ...plan.model_text import parse_model
from ...specs.protocols import DEFAULT_PROTOCOL, find_protocol
from ...specs.requests import RunRequest
from ...specs.spec import UsageError
from ..codes import DONE
from ..stopping import stopping
from ..sweep import Entry, Sweep, read_sweep
from .console import escape, make_console
from .dry_run import show_plan
from .run import run_benchmark


def run_sweep(request: RunRequest, path: Path) -> int:
    """Every run of a file; the worst exit code of them.

    Raises:
        UsageError: for whatever of the file cannot be, with its line, before anything is computed.
    """
    sweep = read_sweep(path, request)
    _check(sweep)
    console = make_console(stderr=any(run.writing.json for run in sweep.runs))
    console.quiet = any(run.quiet for run in sweep.runs)
    with stopping("before anything was computed"):
        # Before the first of them computes: no hour is spent on what ends in a mistake that can be seen now.
        _check_runs(sweep, path)
    worst = DONE
    for number, run in enumerate(sweep.runs, start=1):
        name = _numbered(sweep, number)
        if name:
            crossing = run.crossing
            said = f"{name}: {crossing.dataset}, {crossing.protocol}, seed {crossing.seed}"
            console.print(escape(said), style="bold", soft_wrap=True)
        with stopping("", of=name):
            worst = max(worst, show_plan(run) if request.dry_run else run_benchmark(run, beside=True))
    return worst


def _check_runs(sweep: Sweep, path: Path) -> None:
    for number, run in enumerate(sweep.runs, start=1):
        try:
            build_plan(run.crossing, run.computing, run.writing.out)
        except UsageError as error:
            place = ", ".join(filter(None, (str(path), _numbered(sweep, number))))
            raise UsageError(f"{place}: {error}") from error


def _numbered(sweep: Sweep, number: int) -> str:
    return f"run {number} of {len(sweep.runs)}" if len(sweep.runs) > 1 else ""


def _check(sweep: Sweep) -> None:
    """Whether what the lines name exists."""
    for entry in sweep.entries:
        try:
            _look_up(entry, sweep)
        except UsageError as error:
            raise UsageError(f"{entry.place}: {error}") from error


def _look_up(entry: Entry, sweep: Sweep) -> None:
    crossing = sweep.runs[0].crossing
    match entry.field:
        case "protocol":
            find_protocol(entry.text)
        case "models" | "targets":
            parse_model(entry.text)
        case "attacks" | "match":
            for name in {*_protocols(sweep)}:
                load_attack(entry.text, find_protocol(name))
        case "dataset":
            load_dataset(entry.text, crossing.data_root)


def _protocols(sweep: Sweep) -> Iterator[str]:
    """Those that exist; a wrong one is told at its own line."""
    for run in sweep.runs:
        try:
            find_protocol(run.crossing.protocol)
            yield run.crossing.protocol
        except UsageError:
            yield DEFAULT_PROTOCOL
