"""The ``view`` command: from cases, models and attacks to HTML files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...harness.bench import Bench
from ...harness.compute import Failure
from ...harness.faults import CASE_FAILURES
from ...plan.attacks import short_name
from ...plan.build import build_plan
from ...plan.plan import Plan
from ...records.reading import load_records
from ...records.sources import claim_figures
from ...records.volumes import case_slug, slug
from ...report.examples import Failed, Pair, attacked_pairs
from ...report.viewer.page import render_viewer
from ...report.viewer.volumes import scene_of
from ...show.figures.planes import CONVENTIONS
from ...specs.requests import ViewRequest
from ...specs.spec import UsageError
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress


def write_views(request: ViewRequest) -> int:
    """Write a page per case, model and attack; 0 when all could be, 1 otherwise.

    Raises:
        UsageError: for anything asked for that cannot be, before the first attack runs.
    """
    convention = request.convention.strip().lower()
    if convention not in CONVENTIONS:
        raise UsageError(f"expected --convention among {', '.join(CONVENTIONS)}, got {request.convention!r}")
    crossing = replace(request.crossing, cases=",".join(request.ids))
    if crossing.adversarial is None and not (crossing.models and crossing.attacks):
        raise UsageError(
            "expected --model and --attack, which attack the case again, or --adversarial DIR and --target for "
            "volumes that `run --save-adversarial` wrote"
        )
    plan = build_plan(crossing, request.computing, request.results)
    records = load_records(request.results / plan.dataset.name / "records")
    folder = request.folder / claim_figures(request.folder, plan.dataset)
    console = make_console()
    for reason in plan.refused:
        console.print(f"[red]refused[/red] {escape(reason)}", soft_wrap=True)
    jobs = [(job, target) for job in plan.jobs() if not job.clean for target in job.targets]
    failed = bool(plan.refused)
    with progress(f"{plan.dataset.name}: views", len(jobs)) as bar:
        for found in attacked_pairs(Bench(plan), jobs, records):
            bar.update(bar.task_ids[0], advance=1)
            try:
                if isinstance(found, Failed):
                    raise found.error
                path = _write(folder, plan, found, convention)
            except CASE_FAILURES as error:
                failed = True
                job = found.job if isinstance(found, Failed) else found.attacked.job
                console.print(
                    f"[red]failed[/red] {escape(job.case)}: {escape(Failure.of(error).reason)}",
                    soft_wrap=True,
                )
                continue
            console.print(f"{escape(found.attacked.job.case)}: {escape(found.note)}", soft_wrap=True)
            console.print(f"  {escape(str(path))}", soft_wrap=True)
    return SOME_FAILED if failed else DONE


def _write(folder: Path, plan: Plan, pair: Pair, convention: str) -> Path:
    scene = scene_of(plan, pair.clean, pair.attacked, [pair.note])
    name = f"view_{case_slug(scene.case)}_{case_slug(scene.models)}_{slug(short_name(scene.attack))}.html"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(render_viewer(scene, convention), encoding="utf-8", newline="\n")
    return path
