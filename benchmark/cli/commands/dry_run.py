"""What ``run --dry-run`` shows: the plan and what it costs, without computing it."""

from __future__ import annotations

import torch
from rich.text import Text

from robustvox.datasets import Volume

from ...craft.named import NamedAttack, NamedModel
from ...craft.view import attacked_windows
from ...harness.bench import Bench
from ...harness.faults import CASE_FAILURES, require_folder
from ...harness.outlook import attack_seconds, passes_of
from ...plan.attacks import brief
from ...plan.build import build_plan
from ...plan.plan import Plan
from ...specs.durations import duration
from ...specs.requests import RunRequest
from ..codes import DONE
from .console import make_console
from .labels import labels_of


def show_plan(request: RunRequest) -> int:
    """Print what a run would cross, with the passes of every attack and about how long they take here.

    Raises:
        UsageError: for whatever a run would refuse.
    """
    require_folder(request.writing.out)
    plan = build_plan(request.crossing, request.computing, request.writing.out)
    labels_of(plan, request.writing.out)
    console = make_console(stderr=request.writing.json)
    bench = Bench(plan)
    volume = _first(bench)
    cases = ", ".join(plan.cases[:4]) + (", ..." if len(plan.cases) > 4 else "")
    lines = [
        f"dataset   {plan.dataset.name}, {len(plan.cases)} case{'s' * (len(plan.cases) > 1)}: {cases}",
        f"protocol  {plan.protocol.name}, seed {plan.seed}, on {plan.device}",
        *(f"model     {model.shown}" for model in plan.surrogates),
        *(f"scored    {model.shown}" for model in plan.targets if plan.surrogates != plan.targets),
        *(f"attack    {brief(a.spec)}: at most {_passes_told(plan, a, volume)}" for a in plan.attacks),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    jobs = list(plan.jobs())
    passes = sum(
        passes_of(job.attack) * _windows(plan, job.surrogate, volume)
        for job in jobs
        if job.attack is not None and job.surrogate is not None
    )
    with torch.no_grad():
        seconds = None if volume is None else _seconds(bench, volume)
    took = f"about {duration(seconds)} here" if seconds is not None else "the first case cannot be predicted"
    console.print(
        Text(
            f"{len(jobs)} volumes, at most {passes} passes, {took}, less what is recorded in {request.writing.out}; "
            "nothing was computed"
        ),
        soft_wrap=True,
    )
    return DONE


def _first(bench: Bench) -> Volume | None:
    """The first case, whose size stands for that of the others; None where it cannot be read."""
    try:
        return bench.case(bench.plan.cases[0]).volume
    except CASE_FAILURES:
        return None


def _windows(plan: Plan, surrogate: NamedModel, volume: Volume | None) -> int:
    """How often an attack runs on a case: a protocol may attack window by window."""
    if volume is None:
        return 1
    return attacked_windows(plan.protocol, surrogate.predictor, volume.image.shape[1:])


def _passes_told(plan: Plan, attack: NamedAttack, volume: Volume | None) -> str:
    """The passes on a case, over the windows of the model that has most."""
    windows = max((_windows(plan, surrogate, volume) for surrogate in plan.surrogates), default=1)
    passes = passes_of(attack)
    if windows == 1:
        return f"{passes} passes a case"
    return f"{passes * windows} passes a case, {passes} in each of {windows} windows"


def _seconds(bench: Bench, volume: Volume) -> float | None:
    """Of the whole plan, by one forward of every model on the first case; None where that fails."""
    plan = bench.plan
    try:
        for model in plan.models:
            bench.clean(model, volume)
    except CASE_FAILURES:
        return None
    forward = bench.forwards
    attacked = sum(
        # A window is a part of the volume: so many passes in each of them are as many on the whole.
        attack_seconds(passes_of(job.attack), forward[job.surrogate.key])
        for job in plan.jobs()
        if job.attack is not None and job.surrogate is not None
    )
    return attacked + sum(forward[target.key] for job in plan.jobs() for target in job.targets)
