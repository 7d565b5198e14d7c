"""Jobs on other processes and machines, which may die while they compute.

At most twice as many jobs are under way as there are workers: one that is computed and one that waits beside it, so that
nobody is idle while this process writes a record and reads the next case. A worker gets jobs once it has answered what
:mod:`~robustvox.benchmark.harness.preflight` asks. A job whose worker died is tried on another one, and the last time
alone, when nothing else can be to blame; only then is it given up. This process stays the only writer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..specs.spec import UnfinishedError
from .compute import Failure
from .crews import Crew, WorkerLostError
from .faults import ATTEMPTS, Kind, reason_of
from .jobs import Assignment, Computed, JobKey, JobSpec, Refused, greet, run_job
from .preflight import Answer, disagreement

_TICK_S = 0.5
PER_WORKER = 2
_DEAD_STARTS = 5  # a worker that dies so often before its first answer gets no jobs

Item = TypeVar("Item")


@dataclass
class Tally:
    """Where a run stands; changes while it goes on.

    Attributes:
        jobs: of the run.
        done: finished now or before, failed ones included.
        running: under way, at most one per worker.
        waiting: not begun.
        lost: times that a job lost its worker.
        workers: that may compute; 0 where this process does.
        starting: workers that were asked what they have and did not answer yet.
        doing: tells what is in work at any moment, in a few words.
        attack: tells the spec of the attack that this process makes, empty for none.
        surrogate: tells the key of the model under that attack.
        share: tells how far that attack is, 0 to 1.
        forwards: tells the seconds of a forward on a whole volume, by the key of the model, as far as measured.
    """

    jobs: int
    done: int = 0
    running: int = 0
    waiting: int = 0
    lost: int = 0
    workers: int = 0
    starting: int = 0
    doing: Callable[[], str] = str
    attack: Callable[[], str] = str
    surrogate: Callable[[], tuple[str, ...]] = tuple
    share: Callable[[], float] = float
    forwards: Callable[[], Mapping[tuple[str, str], float]] = dict

    def __str__(self) -> str:
        many = f" on {self.workers} workers" if self.workers else ""
        starting = f", {self.starting} workers starting" if self.starting else ""
        return f"{self.running} running{many}{starting}, {self.waiting} waiting, {self.lost} lost"


@dataclass
class _Try(Generic[Item]):
    """A job under way, and what it has cost so far."""

    item: Item
    key: JobKey
    lost: list[str] = field(default_factory=list)  # why, each time
    avoid: set[str] = field(default_factory=set)  # workers

    @property
    def alone(self) -> bool:
        return len(self.lost) >= ATTEMPTS - 1


@dataclass(frozen=True)
class Result(Generic[Item]):
    """A job that is over.

    Attributes:
        item: what was handed in.
        computed: per target an outcome or a failure.
        given_up: whether it cost its workers until nobody tried again.
    """

    item: Item
    computed: Computed
    given_up: bool = False


class Dispatcher(Generic[Item]):
    """Hands jobs to a crew and gives back what came of them, in the order in which they finish.

    Args:
        crew: who computes.
        assignment: what the run was asked.
        expected: what this process has; workers with something else get no jobs.
        jobs: pairs of anything and the key of a job, or None where there was nothing to hand out; read one ahead.
        tally: is kept up to date.
        wait_s: how long to wait for a worker when there is none, in seconds.
        tell: hears, in one line each, what people should know.
    """

    def __init__(
        self,
        crew: Crew,
        assignment: Assignment,
        expected: Answer,
        jobs: Iterator[tuple[Item, JobKey] | None],
        *,
        tally: Tally,
        wait_s: float,
        tell: Callable[[str], object],
    ) -> None:
        self._crew, self._assignment, self._expected = crew, assignment, expected
        self._jobs, self._tally, self._wait_s, self._tell = jobs, tally, wait_s, tell
        self._again: deque[_Try[Item]] = deque()
        self._last: deque[_Try[Item]] = deque()  # to be tried alone, when everything else is done
        self._under_way: dict[Future[Any], tuple[str, _Try[Item]]] = {}
        self._asked: dict[Future[Any], str] = {}
        self._busy: dict[str, int] = {}  # jobs of every worker that may compute
        self._places: dict[str, Answer] = {}
        self._refused: dict[str, str] = {}
        self._dead_starts: dict[str, int] = {}
        self._gone: set[str] = set()  # workers whose loss one job has answered for
        self._ahead: _Try[Item] | None = None
        self._exhausted = False
        self._nobody_since: float | None = None
        tally.doing = self._doing

    def results(self) -> Iterator[Result[Item] | None]:
        """What came of every job; None in between, as a sign of life.

        Raises:
            UnfinishedError: there is no worker and none came in time, or there will be none any more.
        """
        while True:
            read_on = self._read_ahead()
            yield None
            if self._ahead is None and not (self._under_way or self._again or self._last):
                if self._exhausted:
                    return
                continue  # all recorded so far: nobody is needed yet
            self._meet()
            self._hand_out()
            self._expect_somebody()
            yield from self._collect(0.0 if read_on else _TICK_S)

    def _read_ahead(self) -> bool:
        """Have the next job at hand; True where there was none to be had this time."""
        if self._ahead is not None or self._exhausted:
            return False
        try:
            found = next(self._jobs)
        except StopIteration:
            self._exhausted = True
            return False
        self._ahead = None if found is None else _Try(*found)
        return found is None

    def finished(self) -> Iterator[Result[Item]]:
        """What arrived and was not given back yet; for a run that is about to end."""
        for future in [future for future in self._under_way if future.done()]:
            _, attempt = self._under_way.pop(future)
            if future.exception() is None and isinstance(future.result(), Computed):
                yield Result(attempt.item, future.result())

    def _meet(self) -> None:
        """Ask who is there; whoever is new is asked what it has."""
        there = set(self._crew.workers())
        for gone in set(self._busy) - there:
            del self._busy[gone]
        known = {*self._busy, *self._refused, *self._asked.values()}
        for new in sorted(there - known):
            self._asked[self._crew.submit(new, greet, self._assignment, self._expected.case)] = new
        self._tally.workers = len(self._busy) * self._crew.many
        self._tally.starting = len(self._asked)

    def _hand_out(self) -> None:
        while (found := self._match()) is not None:
            worker, attempt = found
            spec = JobSpec(self._assignment, self._expected, attempt.key)
            self._under_way[self._crew.submit(worker, run_job, spec)] = (worker, attempt)
            self._busy[worker] += 1
        self._count()

    def _match(self) -> tuple[str, _Try[Item]] | None:
        """A worker that has room and a job for it; the one with the least to do first."""
        if any(attempt.alone for _, attempt in self._under_way.values()):
            return None
        most = PER_WORKER * self._crew.many
        for worker in sorted(self._busy, key=self._busy.__getitem__):
            attempt = self._next(worker) if self._busy[worker] < most else None
            if attempt is not None:
                return worker, attempt
        return None

    def _next(self, worker: str) -> _Try[Item] | None:
        for attempt in list(self._again):
            # Elsewhere, as long as there is an elsewhere.
            if worker not in attempt.avoid or attempt.avoid.issuperset(self._busy):
                self._again.remove(attempt)
                return attempt
        if self._ahead is not None:
            attempt, self._ahead = self._ahead, None
            self._read_ahead()
            return attempt
        if self._last and self._exhausted and not self._under_way and not self._again:
            return self._last.popleft()
        return None

    def _expect_somebody(self) -> None:
        """Never wait in silence, and not for ever."""
        if self._busy or self._asked:  # whoever is there and still answers counts
            self._nobody_since = None
            return
        now = time.monotonic()
        if self._nobody_since is None:
            self._nobody_since = now
            self._tell(
                f"waiting up to {self._wait_s:.0f} s for a worker of {self._crew.where}: {self._nobody()}"
            )
        if now - self._nobody_since >= self._wait_s:
            raise UnfinishedError(
                f"expected a worker of {self._crew.where} within {self._wait_s:.0f} s, found none: {self._nobody()}; "
                "start some or raise --wait, then the same command continues"
            )

    def _nobody(self) -> str:
        if not self._refused:
            return "there is none"
        reasons = "; ".join(dict.fromkeys(self._refused.values()))
        return f"all {len(self._refused)} were refused ({reasons})"

    def _collect(self, timeout_s: float) -> Iterator[Result[Item]]:
        done, _ = wait([*self._under_way, *self._asked], timeout_s, FIRST_COMPLETED)
        if not (self._under_way or self._asked):
            time.sleep(timeout_s)
        for future in [future for future in self._asked if future in done]:
            self._hear(self._asked.pop(future), future)
        for future in [future for future in self._under_way if future in done]:  # the oldest first
            worker, attempt = self._under_way.pop(future)
            if worker in self._busy:
                self._busy[worker] -= 1
            result = self._judge(worker, attempt, future)
            if result is not None:
                self._tally.done += 1
                self._count()
                yield result

    def _hear(self, worker: str, future: Future[Any]) -> None:
        """A worker answered what it has."""
        error = future.exception()
        if isinstance(error, WorkerLostError):
            self._dead_starts[worker] = self._dead_starts.get(worker, 0) + 1
            if self._dead_starts[worker] >= _DEAD_STARTS:
                self._refuse(worker, f"it died {_DEAD_STARTS} times before it answered: {error}")
            return
        answer = Refused(_first_line(error)) if error is not None else future.result()
        if isinstance(answer, Refused):
            self._refuse(worker, answer.reason)
        elif problem := disagreement(self._expected, answer):
            self._refuse(worker, problem)
        else:
            self._admit(worker, answer)

    def _admit(self, worker: str, answer: Answer) -> None:
        self._busy[worker] = 0
        others = {name: other for name, other in self._places.items() if name in self._busy}
        twin = next(
            (name for name, other in others.items() if answer.card and other.card == answer.card), None
        )
        if twin is not None:
            self._tell(f"{worker} and {twin} share one card: they compete for its memory")
        cards = {other.place.accelerator for other in others.values()}
        if cards and answer.place.accelerator not in cards:
            mine = answer.place.accelerator
            self._tell(
                f"{worker} computes on {mine}, others on {', '.join(sorted(cards))}: the rows say which"
            )
        self._places[worker] = answer

    def _refuse(self, worker: str, reason: str) -> None:
        self._busy.pop(worker, None)
        if worker in self._refused:
            return
        self._refused[worker] = reason
        self._tell(f"{worker} gets no jobs: {reason}")

    def _judge(self, worker: str, attempt: _Try[Item], future: Future[Any]) -> Result[Item] | None:
        """What a job that ended means; None if it is tried again."""
        error = future.exception()
        if isinstance(error, WorkerLostError):
            return self._lose(worker, attempt, f"its worker was lost: {error}")
        found = Refused(_first_line(error)) if error is not None else future.result()
        if isinstance(found, Refused):
            self._refuse(worker, found.reason)
            self._again.append(attempt)  # which is not to blame
            return None
        kinds = {part.kind for part in found.found if isinstance(part, Failure)}
        if Kind.DEVICE in kinds:
            self._crew.replace(worker)
        if kinds & {Kind.DEVICE, Kind.MEMORY} and not attempt.alone:
            reason = next(p.reason for p in found.found if isinstance(p, Failure) and p.kind is not Kind.CASE)
            return self._lose(worker, attempt, reason)
        return Result(attempt.item, found, given_up=bool(kinds & {Kind.DEVICE, Kind.MEMORY}))

    def _lose(self, worker: str, attempt: _Try[Item], reason: str) -> Result[Item] | None:
        if worker in self._gone:
            self._again.appendleft(attempt)  # it waited there behind the one that is to blame
            return None
        if worker not in self._crew.workers():
            self._gone.add(worker)
        last = attempt.alone
        attempt.lost.append(reason)
        attempt.avoid.add(worker)
        self._tally.lost += 1
        if last:
            text = f"lost {len(attempt.lost)} times, the last time while nothing else ran, so it is the suspect: {reason}"
            targets = len(attempt.key.targets)
            return Result(attempt.item, Computed((Failure(text, Kind.MEMORY),) * targets), given_up=True)
        what = f"{attempt.key.case}, {attempt.key.attack or 'clean'}"
        self._tell(f"{what}: {reason} ({worker}); it is tried again{' alone' if attempt.alone else ''}")
        (self._last if attempt.alone else self._again).append(attempt)
        return None

    def _doing(self) -> str:
        """The job that is under way for the longest time, and how many others."""
        keys = [attempt.key for _, attempt in list(self._under_way.values())]
        if not keys:
            return ""
        first, more = keys[0], f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"{first.case}: {first.attack or 'scoring'}{more}"

    def _count(self) -> None:
        tally = self._tally
        tally.running = min(len(self._under_way), tally.workers)
        tally.waiting = max(tally.jobs - tally.done - tally.running, 0)


def _first_line(error: BaseException) -> str:
    """Why a job could not even be begun; the last line of a traceback that came as text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines and lines[0].startswith("Traceback") else reason_of(error)
    return f"it cannot run what was sent: {text}"
