"""The ``figures`` command: from names and records to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...craft.named import NamedModel
from ...harness.bench import Bench
from ...harness.compute import Failure
from ...harness.faults import CASE_FAILURES
from ...plan.attacks import short_name
from ...plan.build import build_plan
from ...plan.plan import Job, Plan
from ...records.reading import Records, load_records
from ...records.sources import claim_figures, recorded_name
from ...records.volumes import case_slug, slug
from ...report.examples import Failed, attacked_pairs, make_example
from ...show.figures.canvas import FORMATS, require_matplotlib, save
from ...show.figures.curves import budget_curves, distortion_curves
from ...show.figures.heatmap import transfer_heatmaps
from ...show.figures.planes import CONVENTIONS
from ...show.figures.slices import Example, slice_figure
from ...show.model_labels import relabelled, shown_labels
from ...specs.requests import FiguresRequest
from ...specs.spec import UsageError
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress
from .picture import draw_ranking

if TYPE_CHECKING:
    from rich.console import Console


def draw_figures(request: FiguresRequest) -> int:
    """Write every figure that was asked for; 0 when all cases could be drawn, 1 otherwise.

    Raises:
        UsageError: for anything asked for that cannot be, before the first attack runs.
    """
    require_matplotlib()
    for what, given, known in (
        ("--format", formats_of(request), FORMATS),
        ("--convention", (request.convention.strip().lower(),), CONVENTIONS),
    ):
        wrong = [name for name in given if name not in known]
        if wrong or not given:
            raise UsageError(f"expected {what} among {', '.join(known)}, got {', '.join(wrong) or 'nothing'}")
    if request.ranking:
        return draw_ranking(request)
    console = make_console()
    crossing, results = request.crossing, request.results
    if bool(crossing.models) != bool(crossing.attacks):
        raise UsageError("expected --model and --attack together, or neither for the figures of the records")
    if not crossing.models:
        _require_records(results)
        _draw_records(request, console, recorded_name(results, crossing.dataset))
        return DONE
    plan = build_plan(crossing, request.computing, results)
    records = load_records(results / plan.dataset.name / "records")
    name = claim_figures(request.folder, plan.dataset)
    failed = _draw_cases(request, console, plan, records, name)
    if len(records.costs):
        _draw_records(request, console, name, records)
    return SOME_FAILED if failed else DONE


def formats_of(request: FiguresRequest) -> tuple[str, ...]:
    """The file formats that were asked for, each once."""
    names = (kind.strip().lower() for kind in request.formats.split(","))
    return tuple(dict.fromkeys(filter(None, names)))


def _require_records(results: Path) -> None:
    if not any(path.is_dir() for path in results.glob("*/records")):
        raise UsageError(
            f"expected records below {results}, found none; run a benchmark or correct --results"
        )


def _draw_cases(request: FiguresRequest, console: Console, plan: Plan, records: Records, name: str) -> bool:
    """One figure per case, model and attack in the folder ``name``; whether any of them failed."""
    failed = False
    bench = Bench(plan)
    jobs = [
        (job, job.surrogate) for job in plan.jobs() if job.attack is not None and job.surrogate is not None
    ]
    with progress(f"{plan.dataset.name}: figures", len(jobs)) as bar:
        for job, example, note in _examples(bench, jobs, records):
            bar.update(bar.task_ids[0], advance=1)
            model, spec = _names(job)
            label = escape(f"{job.case}, {model}, {short_name(spec)}")
            try:
                if isinstance(example, BaseException):
                    raise example
                figure = slice_figure(example, request.convention.strip().lower())
            except CASE_FAILURES as error:
                failed = True
                console.print(
                    f"[red]failed[/red] {label}: {escape(Failure.of(error).reason)}", soft_wrap=True
                )
                continue
            stem = f"slices_{case_slug(job.case)}_{case_slug(model)}_{slug(short_name(spec))}"
            paths = save(figure, request.folder / name / stem, formats_of(request))
            console.print(f"{label}: {escape(note)}", soft_wrap=True)
            _announce(console, paths)
    return failed


def _names(job: Job) -> tuple[str, str]:
    return job.surrogate.name if job.surrogate else "", job.attack.spec if job.attack else "none"


def _examples(
    bench: Bench, jobs: Sequence[tuple[Job, NamedModel]], records: Records
) -> Iterator[tuple[Job, Example | BaseException, str]]:
    """Every attack again, with the seeds of the records, and what the records say; a failure replaces its example."""
    for pair in attacked_pairs(bench, jobs, records):
        if isinstance(pair, Failed):
            yield pair.job, pair.error, ""
        else:
            yield (
                pair.attacked.job,
                make_example(bench.plan, pair.clean, pair.attacked, [pair.note]),
                pair.note,
            )


def _draw_records(
    request: FiguresRequest, console: Console, dataset: str, records: Records | None = None
) -> None:
    """Curves and heat maps of a dataset, per protocol."""
    from ...show.tables import results as tables

    folder = request.results / dataset / "records"
    if records is None:
        records = load_records(folder)
    white_box, transfer = tables.both(relabelled(records, shown_labels(folder, records)))
    for protocol in sorted({*white_box["protocol"], *transfer["protocol"]}):
        own = white_box[white_box["protocol"] == protocol]
        pairs = transfer[transfer["protocol"] == protocol]
        for name, figure in (
            ("budget", budget_curves(own)),
            ("distortion", distortion_curves(own)),
            ("transfer", transfer_heatmaps(own, pairs)),
        ):
            if figure is not None:
                stem = request.folder / slug(dataset) / f"{name}_{slug(protocol)}"
                _announce(console, save(figure, stem, formats_of(request)))


def _announce(console: Console, paths: Sequence[Path]) -> None:
    for path in paths:
        console.print(f"  {escape(str(path))}", soft_wrap=True)
