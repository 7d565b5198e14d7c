"""What ``run --dry-run`` shows: the plan and what it costs, without computing it."""

from __future__ import annotations

import torch
from rich.text import Text

from ...craft.meter import Stopwatch
from ...craft.named import predict
from ...harness.bench import Bench
from ...harness.faults import CASE_FAILURES
from ...harness.outlook import passes_of
from ...plan.attacks import brief
from ...plan.build import build_plan
from ...plan.plan import Plan
from ...specs.durations import duration
from ...specs.requests import RunRequest
from ..codes import DONE
from .console import make_console
from .labels import labels_of

_BACKWARD = 2.0  # what a backward pass takes, in forwards


def show_plan(request: RunRequest) -> int:
    """Print what a run would cross, with the passes of every attack and about how long they take here.

    Raises:
        UsageError: for whatever a run would refuse.
    """
    plan = build_plan(request.crossing, request.computing, request.writing.out)
    labels_of(plan, request.writing.out)
    console = make_console(stderr=request.writing.json)
    cases = ", ".join(plan.cases[:4]) + (", ..." if len(plan.cases) > 4 else "")
    lines = [
        f"dataset   {plan.dataset.name}, {len(plan.cases)} cases: {cases}",
        f"protocol  {plan.protocol.name}, seed {plan.seed}, on {plan.device}",
        *(f"model     {model.shown}" for model in plan.surrogates),
        *(f"scored    {model.shown}" for model in plan.targets if plan.surrogates != plan.targets),
        *(f"attack    {brief(a.spec)}: at most {passes_of(a)} passes a case" for a in plan.attacks),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    jobs = list(plan.jobs())
    passes = sum(passes_of(job.attack) if job.attack else 0 for job in jobs)
    with torch.no_grad():
        seconds = _seconds(plan)
    took = f"about {duration(seconds)} here" if seconds is not None else "the first case cannot be read"
    console.print(
        Text(
            f"{len(jobs)} volumes, at most {passes} passes, {took}, less what is recorded in {request.writing.out}; "
            "nothing was computed"
        ),
        soft_wrap=True,
    )
    return DONE


def _seconds(plan: Plan) -> float | None:
    """Of the whole plan, by one forward of every model on the first case; None where that fails."""
    bench, forward = Bench(plan), {}
    try:
        case = bench.case(plan.cases[0])
        image = torch.from_numpy(case.volume.image)[None].to(plan.device)
        for model in plan.models:
            with Stopwatch(plan.device) as watch:
                predict(bench.for_case(model, case.volume), image)
            forward[model.key] = watch.seconds
    except CASE_FAILURES:
        return None
    attacked = sum(
        passes_of(job.attack) * (1 + _BACKWARD) / 2 * forward[job.surrogate.key]
        for job in plan.jobs()
        if job.attack is not None and job.surrogate is not None
    )
    return attacked + sum(forward[target.key] for job in plan.jobs() for target in job.targets)
