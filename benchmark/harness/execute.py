"""The harness: crosses cases, surrogates, attacks and targets; one job crafts one adversarial volume.

An adversarial volume is crafted once per (surrogate, case, attack) and scored on every target that lacks its
record. Nothing here keeps state between jobs but caches, so the order of jobs changes no number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ..craft.crafting import Crafted
from ..plan.plan import Job
from ..records.store import RecordStore
from ..records.unit import Unit
from ..specs.spec import UnfinishedError
from .bench import Bench
from .cluster import Dispatcher, Tally
from .compute import Failure
from .crews import Crew
from .desk import Scoring
from .faults import CASE_FAILURES, Kind, Tracebacks, reason_of, storing
from .jobs import Assignment, Computed, JobKey
from .preflight import Place, answer
from .rounds import Pending, in_rounds


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
class _Begun:
    """A job whose volume was crafted and predicted on; what scoring it gives may not be there yet."""

    pending: Pending
    parts: tuple[Scoring | Failure, ...]

    def done(self) -> bool:
        return all(isinstance(part, Failure) or part.done() for part in self.parts)

    @property
    def unsound(self) -> bool:
        return any(isinstance(part, Failure) and part.kind is Kind.DEVICE for part in self.parts)


def _done(begun: _Begun | Event) -> bool:
    return isinstance(begun, Event) or begun.done()


@dataclass(frozen=True)
class _Run:
    bench: Bench
    store: RecordStore
    provenance: str
    recompute: bool
    tally: Tally

    def here(self) -> Iterator[Event]:
        """Attacks in this process; scores are waited for only when too many are outstanding, and recorded in order."""
        traces, line = Tracebacks(self.store.root), deque[_Begun | Event]()
        self.tally.doing = lambda: self.bench.doing
        self.tally.attack, self.tally.share = lambda: self.bench.attack, lambda: self.bench.share
        self.tally.surrogate, self.tally.forwards = lambda: self.bench.attacked, lambda: self.bench.forwards
        try:
            for found in in_rounds(self._jobs(), self.bench):
                if isinstance(found, _Begun | Event):
                    line.append(found)
                    yield from self._finished(line, traces)
                    continue
                self._count(running=len(found) + len(line))
                crafted = self.bench.craft_all([pending.job for pending in found])
                for pending, volume in zip(found, crafted, strict=True):
                    begun = self._begin(pending, volume)
                    line.append(begun)
                    yield from self._finished(line, traces, wait=begun.unsound)
                self._count(running=len(line))
            yield from self._finished(line, traces, wait=True)
        except (KeyboardInterrupt, UnfinishedError):
            while line and _done(line[0]):
                self._finish(line.popleft(), traces)
            raise
        self._count(running=0)

    def _begin(self, pending: Pending, crafted: Crafted | Failure) -> _Begun:
        if isinstance(crafted, Crafted):
            try:
                return _Begun(pending, tuple(self.bench.begin(pending.job, pending.targets, crafted)))
            except CASE_FAILURES as error:
                crafted = Failure.of(error)
        # Without a volume there is nothing to score on any target.
        return _Begun(pending, (crafted,) * len(pending.targets))

    def _finished(
        self, line: deque[_Begun | Event], traces: Tracebacks, *, wait: bool = False
    ) -> Iterator[Event]:
        """The first in line, recorded, as far as their scores are there, or all.

        Raises:
            UnfinishedError: the device broke while one was computed.
        """
        while line and (wait or _done(line[0]) or self.bench.full):
            begun = line.popleft()
            event = self._finish(begun, traces)
            yield event
            if isinstance(begun, _Begun) and begun.unsound:
                raise UnfinishedError(
                    f"the device of this process is broken since {event.job.case} ({event.error}) and computes nothing "
                    "more; the same command with --workers 1 continues, which replaces such a process"
                )

    def _finish(self, begun: _Begun | Event, traces: Tracebacks) -> Event:
        if isinstance(begun, Event):
            return begun
        computed = Computed(tuple(self.bench.finish(part) for part in begun.parts))
        event = self._record(begun.pending, computed, traces, self.provenance)
        self.tally.done += 1
        return event

    def there(self, elsewhere: Elsewhere) -> Iterator[Event]:
        traces, passed = Tracebacks(self.store.root), deque[Event]()

        def jobs() -> Iterator[tuple[Pending, JobKey] | None]:
            for found in self._jobs():
                if isinstance(found, _Begun | Event):
                    passed.append(self._finish(found, traces))
                    yield None
                else:
                    yield found, JobKey.of(found.job, found.targets)

        dispatcher: Dispatcher[Pending] = Dispatcher(
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

    def _jobs(self) -> Iterator[Event | _Begun | Pending]:
        """Every job of the plan: recorded already, failed because its case cannot be read, or to be computed."""
        for job in self.bench.plan.jobs():
            try:
                data_sha256 = self.bench.case(job.case).data_sha256
            except CASE_FAILURES as error:
                yield _Begun(Pending(job, job.targets, "", ()), (Failure.of(error),) * len(job.targets))
                continue
            units = tuple(self.bench.plan.unit(job, target, data_sha256) for target in job.targets)
            done = [not self.recompute and self.store.done(unit) for unit in units]
            missing = tuple(target for target, there in zip(job.targets, done, strict=True) if not there)
            if missing:
                yield Pending(job, missing, data_sha256, units)
            else:
                self.tally.done += 1
                yield Event(job, Status.RECORDED, units)

    def _record(
        self,
        pending: Pending,
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
