"""The ``view`` command: from cases, saved or attacked now, to HTML files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ...craft.named import NamedAttack
from ...harness.bench import Bench
from ...harness.compute import Failure
from ...harness.faults import CASE_FAILURES
from ...plan.attacks import short_name
from ...plan.build import build_plan, load_attacks, load_crossed
from ...plan.cases import EVERY_SPLIT, select_cases
from ...records.reading import Records, load_records
from ...records.sources import claim_figures
from ...records.volumes import case_slug, slug
from ...records.writing import replace_file
from ...report.examples import Failed, attacked_pairs, compare_with_record
from ...report.viewer.page import render_viewer
from ...report.viewer.saved import Kept, kept_cases
from ...report.viewer.volumes import Attacked, scene_of
from ...show.figures.planes import CONVENTIONS
from ...specs.program import program
from ...specs.protocols import find_protocol
from ...specs.requests import ViewRequest
from ...specs.spec import UsageError
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress


@dataclass(frozen=True)
class _Case:
    """A case, with what the records say of it, or the reason why it cannot be shown."""

    id: str
    attacked: Attacked | None = None
    note: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class _Views:
    """What is to be shown, in which folder, and what cannot be; how many where that takes its time."""

    count: int | None
    folder: Path
    title: str
    cases: Iterator[_Case]
    refused: tuple[str, ...]


def write_views(request: ViewRequest) -> int:
    """Write a page per case, model and attack; 0 when all could be, 1 otherwise.

    Raises:
        UsageError: for anything asked for that cannot be, before the first attack runs.
    """
    convention = request.convention.strip().lower()
    if convention not in CONVENTIONS:
        raise UsageError(f"expected --convention among {', '.join(CONVENTIONS)}, got {request.convention!r}")
    if not request.ids:
        raise UsageError(f"expected the id of a case, got none; `{program()} view case_001 ...`")
    crossing = replace(request.crossing, cases=",".join(request.ids))
    views = _live if crossing.models or crossing.adversarial is not None else _saved
    found = views(replace(request, crossing=crossing))
    console = make_console()
    for reason in found.refused:
        console.print(f"[red]refused[/red] {escape(reason)}", soft_wrap=True)
    failed, names = bool(found.refused), dict[str, str]()
    with nullcontext() if found.count is None else progress(f"{found.title}: views", found.count) as bar:
        for case in found.cases:
            if bar is not None:
                bar.update(bar.task_ids[0], advance=1)
            try:
                if case.attacked is None:
                    raise case.error or ValueError("nothing to show")
                path = found.folder / _name(case.attacked, names)
                text = render_viewer(scene_of(case.attacked, [case.note]), convention)
                found.folder.mkdir(parents=True, exist_ok=True)
                replace_file(path, text)
            except CASE_FAILURES as error:
                failed = True
                reason = escape(Failure.of(error).reason)
                console.print(f"[red]failed[/red] {escape(case.id)}: {reason}", soft_wrap=True)
                continue
            console.print(f"{escape(case.id)}: {escape(case.note)}", soft_wrap=True)
            console.print(f"  {escape(str(path))}", soft_wrap=True)
    return SOME_FAILED if failed else DONE


def _name(case: Attacked, taken: dict[str, str]) -> str:
    """The name of a page; two units of one call that read alike, say two checkpoints of one name, get two."""
    models = case.models.replace(" → ", "_to_")
    stem = f"view_{case_slug(case.volume.id)}_{slug(models)}_{slug(short_name(case.unit.attack))}"
    if taken.setdefault(stem, case.unit.key) != case.unit.key:
        stem = f"{stem}-{case.unit.key[:8]}"
    return f"{stem}.html"


def _live(request: ViewRequest) -> _Views:
    """Attacked again, or saved volumes of a folder on other targets."""
    if request.crossing.models and not request.crossing.attacks:
        raise UsageError(
            "expected --attack with --model, got none; leave --model out for what a run has saved"
        )
    plan = build_plan(request.crossing, request.computing, request.results, option="CASE")
    records = load_records(request.results / plan.dataset.name / "records")
    jobs = [(job, target) for job in plan.jobs() if not job.clean for target in job.targets]
    bench = Bench(plan)

    def cases() -> Iterator[_Case]:
        for found in attacked_pairs(bench, jobs, records):
            if isinstance(found, Failed):
                yield _Case(found.job.case, error=found.error)
            else:
                case = found.attacked.job.case
                data_sha256 = bench.case(case).data_sha256
                try:
                    yield _Case(case, Attacked.of(plan, found.clean, found.attacked, data_sha256), found.note)
                except CASE_FAILURES as error:
                    yield _Case(case, error=error)

    folder = request.folder / claim_figures(request.folder, plan.dataset)
    return _Views(len(jobs), folder, plan.dataset.name, cases(), tuple(plan.refused))


def _saved(request: ViewRequest) -> _Views:
    """As a run has left them."""
    crossing = request.crossing
    protocol = find_protocol(crossing.protocol)
    dataset = load_crossed(crossing, request.results)
    attacks: list[NamedAttack] = load_attacks(crossing, protocol)
    kept = Kept(
        folder=request.results / dataset.name,
        dataset=dataset,
        cases=select_cases(dataset, EVERY_SPLIT, crossing.cases, option="CASE"),
        protocol=protocol,
        attacks=tuple(attack.spec for attack in attacks),
        targets=crossing.targets,
    )
    found, refused = kept_cases(kept)
    records = load_records(kept.folder / "records")
    cases = (_noted(case, records) for case in found)
    return _Views(None, request.folder / claim_figures(request.folder, dataset), dataset.name, cases, refused)


def _noted(case: Attacked | tuple[str, BaseException], records: Records) -> _Case:
    if isinstance(case, Attacked):
        return _Case(case.volume.id, case, compare_with_record(records, case.unit, case.after))
    return _Case(case[0], error=case[1])
