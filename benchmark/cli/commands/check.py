"""The ``check`` command: from what was asked to results on the screen and beside the records."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console, RenderableType
from rich.progress import Progress
from rich.text import Text

from robustvox.datasets import Volume

from ...craft.named import NamedAttack, NamedModel
from ...harness.faults import CASE_FAILURES, require_folder
from ...plan.attacks import brief
from ...plan.build import build_plan
from ...plan.plan import Plan
from ...records.outcomes import CheckOutcome, save
from ...records.provenance import describe
from ...records.sources import claim
from ...show.files import write
from ...specs.names import printable
from ...specs.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from ...specs.requests import CheckRequest
from ...specs.spec import UsageError
from ...studies.sanity.base import FAIL, PASS, SKIP, WARN, Check, Result
from ...studies.sanity.context import Context
from ...studies.sanity.registry import select
from ...studies.sanity.runner import results
from ..codes import DONE, SOME_FAILED
from ..stopping import stopping
from .console import escape, make_console, progress
from .fitted_table import fitted_table
from .json_rows import Emit, json_rows

_COLORS = {PASS: "green", WARN: "yellow", FAIL: "bold red", SKIP: "dim"}


@dataclass(frozen=True)
class _Pair:
    """One model under one attack, on the volumes that could be read."""

    request: CheckRequest
    plan: Plan
    model: NamedModel
    attack: NamedAttack
    volumes: list[Volume]


def check_benchmark(request: CheckRequest) -> int:
    """Check every model under every attack; 0 when nothing failed, 1 otherwise."""
    with json_rows(request.json) as emit:
        return _check_all(request, emit)


def _check_all(request: CheckRequest, emit: Emit) -> int:
    checks = select(request.only)
    require_folder(request.out)
    plan = build_plan(request.crossing, request.computing, request.out)
    if plan.protocol != PROTOCOLS[DEFAULT_PROTOCOL]:
        raise UsageError(
            f"expected --protocol {DEFAULT_PROTOCOL}, whose view and scores the checks use, got {plan.protocol.name}; a "
            "single defect can be checked as an attack, --attack pgd:iterate=last"
        )
    claim(request.out, plan.dataset)
    console = make_console()
    volumes, broken = _load(plan, console)
    failed = broken
    for model in plan.surrogates if volumes else ():
        for attack in plan.attacks:
            pair = _Pair(request, plan, model, attack, volumes)
            found = _check_one(pair, checks, emit)
            failed |= any(result.status == FAIL for result in found)
            console.print(_table(console, pair, found))
    if volumes:
        write(request.out)
        console.print(f"outcomes in {escape(str(request.out / plan.dataset.name / 'checks'))}")
    return SOME_FAILED if failed else DONE


def _load(plan: Plan, console: Console) -> tuple[list[Volume], bool]:
    """The cases that can be read, and whether some cannot."""
    volumes: list[Volume] = []
    for case in plan.cases:
        try:
            volumes.append(plan.dataset.load(case))
        except CASE_FAILURES as error:
            console.print(f"[red]failed[/red] {escape(case)}: {escape(' '.join(f'{error}'.split()))}")
    return volumes, len(volumes) < len(plan.cases)


def _check_one(pair: _Pair, checks: tuple[Check, ...], emit: Emit) -> list[Result]:
    """What every check finds, kept as it comes: who stops a long one loses that one."""
    plan, queries = pair.plan, pair.request.queries
    work = {check.id: check.runs + check.per_query * queries for check in checks}
    title = f"{pair.model.name}, {brief(pair.attack.spec)}"
    found: list[Result] = []
    with progress(escape(title), 1) as bar:
        pace = _Pace(bar, escape(title), work, len(pair.volumes))
        context = Context(
            pair.model,
            pair.attack,
            pair.volumes,
            num_classes=len(plan.dataset.class_names),
            dataset=plan.dataset.name,
            protocol=plan.protocol.name,
            seed=plan.seed,
            device=plan.device,
            queries=queries,
            tick=pace.tick,
        )
        with stopping(lambda: f"after {len(found)} of {len(checks)} checks, in {pace.said}"):
            for result in results(context, checks, pace.start):
                _save(pair, [result], emit)
                found.append(result)
    return found


class _Pace:
    """Moves the bar by attacked volumes, the longest parts of a check; the work of each is known in advance."""

    def __init__(self, bar: Progress, title: str, work: dict[str, float], cases: int) -> None:
        self._bar, self._title, self._work, self._cases = bar, title, work, cases
        self.said = title
        self._before = self._within = self._of_check = 0.0
        bar.update(bar.task_ids[0], total=sum(work.values()))

    def start(self, check: Check) -> None:
        """Everything before this check is done."""
        self._before += self._of_check
        self._within, self._of_check = 0.0, self._work[check.id]
        self.said = f"{self._title}: {check.id} {check.slug}"
        self._show(self.said)

    def tick(self) -> None:
        """One more volume was attacked."""
        self._within = min(self._within + 1 / self._cases, self._of_check)
        self._show()

    def _show(self, description: str | None = None) -> None:
        self._bar.update(
            self._bar.task_ids[0], completed=self._before + self._within, description=description
        )


def _table(console: Console, pair: _Pair, found: list[Result]) -> RenderableType:
    title = (
        f"{pair.plan.dataset.name}, {pair.plan.protocol.name}: {pair.model.shown} under "
        f"{brief(pair.attack.spec)}, {len(pair.volumes)} cases"
    )
    headings = ("id", "status", "number", "check", "meaning", "rule")
    rows = [
        (
            result.id,
            Text(result.status, _COLORS[result.status]),
            "-" if result.number is None else f"{result.number:.4g}",
            printable(result.title),
            printable(result.detail),
            "" if result.status == SKIP else printable(result.rule),
        )
        for result in found
    ]
    return fitted_table(console, printable(title), headings, rows, fold=3)


def _save(pair: _Pair, found: list[Result], emit: Emit) -> None:
    """Keep the outcomes beside the records, and give them as rows."""
    plan, model, attack = pair.plan, pair.model, pair.attack
    versions = describe()
    outcomes = [
        CheckOutcome(
            dataset=plan.dataset.name,
            protocol=plan.protocol.name,
            surrogate=model.name,
            surrogate_sha256=model.sha256,
            attack=attack.spec,
            check=result.id,
            slug=result.slug,
            status=result.status,
            flag=result.flag,
            number=result.number,
            rule=result.rule,
            detail=result.detail,
            cases=tuple(volume.id for volume in pair.volumes),
            seed=plan.seed,
            queries=pair.request.queries,
            robustvox=versions["robustvox"],
            commit=versions["commit"],
            torch=versions["packages"]["torch"],
        )
        for result in found
    ]
    save(pair.request.out / plan.dataset.name / "checks", outcomes)
    emit(asdict(outcome) for outcome in outcomes)
