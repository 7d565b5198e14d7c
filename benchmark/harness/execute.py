"""The harness: crosses cases, surrogates, attacks and targets; one job crafts one adversarial volume.

An adversarial volume is crafted once per (surrogate, case, attack) and scored on every target that lacks its
record. Nothing here keeps state between jobs but caches, so the order of jobs changes no number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ..craft.named import NamedModel
from ..plan.plan import Job
from ..records.store import RecordStore
from ..records.unit import Unit
from ..specs.spec import UnfinishedError
from .bench import Bench
from .cluster import Dispatcher, Tally
from .compute import Failure
from .crews import Crew
from .faults import CASE_FAILURES, Tracebacks, reason_of, storing
from .jobs import Assignment, Computed, JobKey, compute
from .preflight import Place, answer


class Status(StrEnum):
    """What became of a job."""

    COMPUTED = "computed"
    RECORDED = "recorded"
    FAILED = "failed"
    LOST = "lost"
    """It cost a worker whenever it was tried: the machine's failure more likely than the case's."""


@dataclass(frozen=True)
class Event:
    """What happened to one job, for progress: computed, found in the records, or failed with ``error``."""

    job: Job
    status: Status
    units: tuple[Unit, ...]
    error: str = ""
    traced: bool = False
    """Whether a traceback was kept, see :class:`~robustvox.benchmark.harness.faults.Tracebacks`."""

    @property
    def failed(self) -> bool:
        """Whether something of it is missing in the tables."""
        return self.status in (Status.FAILED, Status.LOST)


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Jobs are computed by others.

    Attributes:
        crew: by whom.
        assignment: what was asked, so that they can resolve it themselves.
        wait_s: how long to wait for a worker when there is none.
        tell: hears what people should know, a line each.
        provenance_at: the provenance of rows that were computed somewhere; None for that of the run.
    """

    crew: Crew
    assignment: Assignment
    wait_s: float = 60.0
    tell: Callable[[str], object] = str
    provenance_at: Callable[[Place], str] | None = None


def execute(
    bench: Bench,
    store: RecordStore,
    provenance: str = "",
    *,
    recompute: bool = False,
    elsewhere: Elsewhere | None = None,
    tally: Tally | None = None,
) -> Iterator[Event]:
    """Run every job of the bench's plan whose records are missing, appending as each finishes.

    Whatever a case, an attack or a target raise becomes failure rows of what failed; the iteration goes on. With
    ``elsewhere`` jobs finish in any order; this process stays the only writer.

    Args:
        bench: the plan, on this process's device.
        store: where records go.
        provenance: id of this process's provenance.
        recompute: whether what is recorded is computed again.
        elsewhere: who computes; None for this process.
        tally: is kept up to date for progress.

    Raises:
        UnfinishedError: records cannot be written, nobody is there to compute, or this process's device broke. What
            is finished is recorded.
    """
    tally = Tally(0) if tally is None else tally
    tally.jobs = sum(1 for _ in bench.plan.jobs())
    run = _Run(bench, store, provenance, recompute, tally)
    return run.here() if elsewhere is None else run.there(elsewhere)


@dataclass(frozen=True)
class _Pending:
    """A job that has to be computed, and what its records will need."""

    job: Job
    targets: tuple[NamedModel, ...]
    data_sha256: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class _Run:
    bench: Bench
    store: RecordStore
    provenance: str
    recompute: bool
    tally: Tally

    def here(self) -> Iterator[Event]:
        traces = Tracebacks(self.store.root)
        for found in self._jobs(traces):
            if isinstance(found, Event):
                yield found
                continue
            self._count(running=1)
            computed = compute(self.bench, found.job, found.targets)
            event = self._record(found, computed, traces, self.provenance)
            self.tally.done += 1
            self._count(running=0)
            yield event
            if computed.unsound:
                raise UnfinishedError(
                    f"the device of this process is broken since {found.job.case} ({event.error}) and computes nothing "
                    "more; the same command with --workers 1 continues, which replaces such a process"
                )

    def there(self, elsewhere: Elsewhere) -> Iterator[Event]:
        traces, passed = Tracebacks(self.store.root), deque[Event]()

        def jobs() -> Iterator[tuple[_Pending, JobKey] | None]:
            for found in self._jobs(traces):
                if isinstance(found, Event):
                    passed.append(found)
                    yield None
                else:
                    yield found, JobKey.of(found.job, found.targets)

        dispatcher: Dispatcher[_Pending] = Dispatcher(
            elsewhere.crew,
            elsewhere.assignment,
            answer(self.bench),
            jobs(),
            tally=self.tally,
            wait_s=elsewhere.wait_s,
            tell=elsewhere.tell,
        )
        try:
            for result in dispatcher.results():
                while passed:
                    yield passed.popleft()
                if result is not None:
                    provenance = self._provenance(result.computed, elsewhere)
                    yield self._record(result.item, result.computed, traces, provenance, result.given_up)
        except (KeyboardInterrupt, UnfinishedError):
            for result in dispatcher.finished():
                self._record(
                    result.item, result.computed, traces, self._provenance(result.computed, elsewhere)
                )
            raise

    def _jobs(self, traces: Tracebacks) -> Iterator[Event | _Pending]:
        """Every job of the plan: what became of it already, or what is to be computed."""
        for job in self.bench.plan.jobs():
            try:
                data_sha256 = self.bench.case(job.case).data_sha256
            except CASE_FAILURES as error:
                pending = _Pending(job, job.targets, "", ())
                self.tally.done += 1
                yield self._record(pending, Computed((Failure.of(error),) * len(job.targets)), traces, "")
                continue
            units = tuple(self.bench.plan.unit(job, target, data_sha256) for target in job.targets)
            done = [not self.recompute and self.store.done(unit) for unit in units]
            missing = tuple(target for target, there in zip(job.targets, done, strict=True) if not there)
            if missing:
                yield _Pending(job, missing, data_sha256, units)
            else:
                self.tally.done += 1
                yield Event(job, Status.RECORDED, units)

    def _record(
        self,
        pending: _Pending,
        computed: Computed,
        traces: Tracebacks,
        provenance: str,
        given_up: bool = False,
    ) -> Event:
        reasons: list[str] = []
        units = pending.units or tuple(self.bench.plan.unit(pending.job, t, "") for t in pending.targets)
        with storing(self.store.root):
            for target, found in zip(pending.targets, computed.found, strict=True):
                unit = self.bench.plan.unit(pending.job, target, pending.data_sha256)
                if isinstance(found, Failure):
                    self.store.fail(unit, found.reason)
                    traces.keep(f"{unit.case}, {unit.attack} on {unit.surrogate}, {unit.target}", found.trace)
                    reasons.append(found.reason)
                    continue
                try:
                    self.store.append(unit, found.score_rows(), found.cost_row(provenance))
                except ValueError as error:  # numbers that no record takes
                    self.store.fail(unit, reason_of(error))
                    reasons.append(reason_of(error))
        if not reasons:
            return Event(pending.job, Status.COMPUTED, units)
        status = Status.LOST if given_up else Status.FAILED
        traced = any(isinstance(found, Failure) and found.trace for found in computed.found)
        return Event(pending.job, status, units, "; ".join(dict.fromkeys(reasons)), traced)

    def _provenance(self, computed: Computed, elsewhere: Elsewhere) -> str:
        if computed.place is None or elsewhere.provenance_at is None:
            return self.provenance
        with storing(self.store.root):
            return elsewhere.provenance_at(computed.place)

    def _count(self, *, running: int) -> None:
        self.tally.running = running
        self.tally.waiting = max(self.tally.jobs - self.tally.done - running, 0)
