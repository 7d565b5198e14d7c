"""The ``figures`` command: from names and records to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..console import make_console, progress
from ..harness import CASE_FAILURES, CaseCache, Job, Outcome, Plan, Scored, compute
from ..loading import NamedModel
from ..records import Records, load_records
from ..running import DONE, SOME_FAILED, RunRequest, build_plan
from ..saving import slug
from ..specs import UsageError, match
from .canvas import FORMATS, require_matplotlib, save
from .curves import budget_curves, distortion_curves
from .examples import compare_with_record, make_example
from .heatmap import transfer_heatmaps
from .names import short_name
from .planes import CONVENTIONS
from .slices import Example, slice_figure

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """The command line of ``figures``: the models, attacks and cases of a run, its records, and where to.

    Args:
        run: what a run would be; without models and attacks only the records are drawn.
        out: folder of the figures; ``<dataset>/`` is made in it.
        formats: among :data:`~robustvox.benchmark.figures.canvas.FORMATS`.
        convention: among :data:`~robustvox.benchmark.figures.planes.CONVENTIONS`.
    """

    run: RunRequest
    out: Path = Path("figures")
    formats: tuple[str, ...] = ("png", "svg")
    convention: str = "radiological"


def draw_figures(request: FiguresRequest) -> int:
    """Write every figure that was asked for; 0 when all cases could be drawn, 1 otherwise.

    Raises:
        UsageError: for anything asked for that cannot be, before the first attack runs.
    """
    require_matplotlib()
    for what, given, known in (
        ("--format", request.formats, FORMATS),
        ("--convention", (request.convention,), CONVENTIONS),
    ):
        wrong = [name for name in given if name not in known]
        if wrong or not given:
            raise UsageError(f"expected {what} among {', '.join(known)}, got {', '.join(wrong) or 'nothing'}")
    console = make_console()
    run = request.run
    if bool(run.models) != bool(run.attacks):
        raise UsageError("expected --model and --attack together, or neither for the figures of the records")
    if not run.models:
        _draw_records(request, console, match(run.dataset, _recorded(run.out), "dataset with records"))
        return DONE
    plan = build_plan(run)
    records = load_records(run.out / plan.dataset.name / "records")
    failed = _draw_cases(request, console, plan, records)
    if len(records.costs):
        _draw_records(request, console, plan.dataset.name, records)
    return SOME_FAILED if failed else DONE


def _recorded(results: Path) -> list[str]:
    names = sorted(path.parent.name for path in results.glob("*/records") if path.is_dir())
    if not names:
        raise UsageError(
            f"expected records below {results}, found none; run a benchmark or correct --results"
        )
    return names


def _draw_cases(request: FiguresRequest, console: Console, plan: Plan, records: Records) -> bool:
    """One figure per case, model and attack; whether any of them failed."""
    failed = False
    cases = CaseCache(plan)
    jobs = [
        (job, job.surrogate) for job in plan.jobs() if job.attack is not None and job.surrogate is not None
    ]
    with progress(f"{plan.dataset.name}: figures", len(jobs)) as bar:
        for job, example, note in _examples(plan, jobs, cases, records):
            bar.update(bar.task_ids[0], advance=1)
            model, spec = _names(job)
            label = escape(f"{job.case}, {model}, {short_name(spec)}")
            try:
                if isinstance(example, Exception):
                    raise example
                figure = slice_figure(example, request.convention)
            except CASE_FAILURES as error:
                failed = True
                reason = " ".join(f"{error}".split()) or type(error).__name__
                console.print(f"[red]failed[/red] {label}: {escape(reason)}", soft_wrap=True)
                continue
            stem = f"slices_{slug(job.case)}_{slug(model)}_{slug(short_name(spec))}"
            paths = save(figure, request.out / plan.dataset.name / stem, request.formats)
            console.print(f"{label}: {escape(note)}", soft_wrap=True)
            _announce(console, paths)
    return failed


def _names(job: Job) -> tuple[str, str]:
    return job.surrogate.name if job.surrogate else "", job.attack.spec if job.attack else "none"


def _examples(
    plan: Plan, jobs: Sequence[tuple[Job, NamedModel]], cases: CaseCache, records: Records
) -> Iterator[tuple[Job, Example | Exception, str]]:
    """Every attack again, with the seeds of the records, and what the records say; a failure replaces its example."""
    clean: dict[tuple[str, str], Scored] = {}
    for job, target in jobs:
        try:
            volume, data_sha256, scorer = cases(job.case)
            key = (job.case, target.sha256 + target.name)
            if key not in clean:
                # Volumes of the case before are not needed any more.
                clean = {k: v for k, v in clean.items() if k[0] == job.case}
                clean[key], _ = _score(plan, Job(job.case, None, None, (target,)), target, volume, scorer)
            attacked, (rows, cost) = _score(plan, job, target, volume, scorer)
            note = compare_with_record(records, plan.unit(job, target, data_sha256), rows)
            yield job, make_example(plan, clean[key], attacked, cost, [note]), note
        except CASE_FAILURES as error:
            yield job, error, ""


def _score(plan: Plan, job: Job, target: NamedModel, volume: Any, scorer: Any) -> tuple[Scored, Outcome]:
    """What a run computes of one job, and the volumes behind it."""
    seen: list[Scored] = []
    (outcome,) = compute(replace(plan, watch=seen.append), job, (target,), volume, scorer)
    return seen[0], outcome


def _draw_records(
    request: FiguresRequest, console: Console, dataset: str, records: Records | None = None
) -> None:
    """Curves and heat maps of a dataset, per protocol."""
    from .. import tables

    if records is None:
        records = load_records(request.run.out / dataset / "records")
    white_box, transfer = tables.white_box(records), tables.transfer(records)
    for protocol in sorted({*white_box["protocol"], *transfer["protocol"]}):
        own = white_box[white_box["protocol"] == protocol]
        pairs = transfer[transfer["protocol"] == protocol]
        for name, figure in (
            ("budget", budget_curves(own)),
            ("distortion", distortion_curves(own)),
            ("transfer", transfer_heatmaps(own, pairs)),
        ):
            if figure is not None:
                stem = request.out / slug(dataset) / f"{name}_{slug(protocol)}"
                _announce(console, save(figure, stem, request.formats))


def _announce(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"  {escape(str(path))}", soft_wrap=True)
