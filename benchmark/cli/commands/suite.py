"""The ``suite`` command: the rows that a model lacks, and the checks that its rows lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...harness.faults import require_folder
from ...plan.build import build_plan
from ...plan.plan import Plan
from ...records.reading import load_records
from ...records.states import load_states, state_of
from ...records.suite import admitted
from ...specs.crossing import Crossing, Writing
from ...specs.entering import SuiteRequest
from ...specs.requests import CheckRequest, RunRequest
from ...specs.spec import UsageError
from ...specs.suites import SUITES, Suite, SuiteRow, find_suite
from ..codes import DONE
from .check import check_benchmark
from .console import say
from .run import run_benchmark

CHECKED = 2
"""Cases that checks look at: two show more than one, twenty hardly more than four."""


def run_suite(request: SuiteRequest) -> int:
    """Model by model; the worst exit code of what was run.

    Raises:
        UsageError: a protocol without a suite, or anything that a run refuses.
    """
    suite = find_suite(request.crossing.protocol)
    if suite is None:
        raise UsageError(
            f"expected --protocol among {', '.join(SUITES)}, whose suites are fixed, got {request.crossing.protocol}"
        )
    require_folder(request.out)
    code = DONE
    for crossing in _models(request.crossing):
        code = max(code, _measure(request, suite, crossing))
    return code


def _models(crossing: Crossing) -> Iterator[Crossing]:
    """One model each, with its checkpoint."""
    files = crossing.checkpoints
    if len(files) not in (0, len(crossing.models)):
        raise UsageError(
            f"expected one --checkpoint per --model ({len(crossing.models)}), got {len(files)}; give one model at a time"
        )
    for at, model in enumerate(crossing.models):
        yield replace(crossing, models=(model,), checkpoints=files[at : at + 1])


def _measure(request: SuiteRequest, suite: Suite, crossing: Crossing) -> int:
    frozen = suite.cases(crossing.dataset)
    crossing = replace(
        crossing,
        attacks=tuple(row.text for row in suite.run),
        split=suite.split,
        cases=",".join(frozen.data) if frozen else f"first:{suite.n_cases}",
        seed=suite.seed,
    )
    plan = build_plan(crossing, request.computing, request.out)
    (model,), code = plan.surrogates, DONE
    lacking = [row for row in suite.run if not _recorded(request.known, suite, plan, row)]
    say(
        f"{model.name}: {', '.join(row.label for row in lacking) or 'nothing'} to measure on {len(plan.cases)} cases"
    )
    if lacking:
        rows = replace(crossing, attacks=tuple(row.text for row in lacking))
        writing = Writing(out=request.out, report=False)
        code = run_benchmark(RunRequest(crossing=rows, computing=request.computing, writing=writing))
    for row in suite.run if request.checks else ():
        found = {**_states(request.known, plan), **_states(request.out, plan)}
        asked = state_of(found, suite.name, model.sha256, row.spec).lacking
        if asked:
            some = replace(crossing, attacks=(row.text,), cases=",".join(plan.cases[:CHECKED]))
            check_benchmark(
                CheckRequest(
                    crossing=some,
                    computing=request.computing,
                    only=",".join(asked),
                    queries=request.queries,
                    out=request.out,
                )
            )
    return code


def _recorded(results: Path, suite: Suite, plan: Plan, row: SuiteRow) -> bool:
    """Whether a folder of results has a row of the suite on every case of the plan."""
    costs: Any = admitted(load_records(results / plan.dataset.name / "records"), suite).costs
    sha256 = plan.surrogates[0].sha256
    mine = costs[(costs["surrogate_sha256"] == sha256) & (costs["target_sha256"] == sha256)]
    return {*plan.cases} <= {*mine.loc[mine["attack"] == row.spec, "case"]}


def _states(results: Path, plan: Plan) -> Any:
    return load_states(results / plan.dataset.name / "checks")
