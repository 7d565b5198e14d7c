"""Jobs as they travel to other processes, and what such a process does with one.

A job travels as names and hashes, not as tensors: every worker resolves the same assignment once and keeps its networks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..craft.named import NamedModel
from ..plan.plan import Job, Plan
from .bench import Bench
from .compute import Failure, Outcome
from .faults import CASE_FAILURES, Kind
from .preflight import Answer, Place, answer, disagreement
from .saving import requested_saver

if TYPE_CHECKING:
    from ..specs.crossing import Computing, Crossing, Writing


@dataclass(frozen=True)
class Assignment:
    """What a worker resolves for itself, once: what is crossed and how; where volumes go, if they are kept.

    Every path in it is absolute, so that it means the same in another folder and on another machine.
    """

    crossing: Crossing
    computing: Computing
    keep: Writing | None = None


@dataclass(frozen=True)
class JobKey:
    """A job of a plan: models by name and sha256, the attack by its spec, a saved volume by its path."""

    case: str
    surrogate: tuple[str, str] | None
    attack: str | None
    targets: tuple[tuple[str, str], ...]
    saved: Path | None

    @classmethod
    def of(cls, job: Job, targets: Sequence[NamedModel]) -> JobKey:
        """The key of a job that is scored on ``targets``."""
        return cls(
            case=job.case,
            surrogate=job.surrogate.key if job.surrogate else None,
            attack=job.attack.spec if job.attack else None,
            targets=tuple(target.key for target in targets),
            saved=job.saved.path.resolve() if job.saved else None,
        )

    def find(self, plan: Plan) -> Job:
        """The job of ``plan`` with this key.

        Raises:
            KeyError: the plan has no such model, attack or volume.
        """
        models = {model.key: model for model in plan.models}
        attacks = {named.spec: named for named in plan.attacks}
        saved = {volume.path.resolve(): volume for volume in plan.saved}
        return Job(
            self.case,
            models[self.surrogate] if self.surrogate else None,
            attacks[self.attack] if self.attack else None,
            tuple(models[key] for key in self.targets),
            saved[self.saved] if self.saved else None,
        )


@dataclass(frozen=True)
class JobSpec:
    """All that a worker needs: a few kilobytes of names.

    Args:
        assignment: what the run was asked.
        expected: what the run itself has; a worker that has something else refuses.
        key: which job.
    """

    assignment: Assignment
    expected: Answer
    key: JobKey


@dataclass(frozen=True)
class Computed:
    """What came of a job.

    Attributes:
        found: per target, in their order.
        place: where; None for this process.
    """

    found: tuple[Outcome | Failure, ...]
    place: Place | None = None

    @property
    def unsound(self) -> bool:
        """Whether the process that computed it has a broken device and can compute nothing more."""
        return any(isinstance(part, Failure) and part.kind is Kind.DEVICE for part in self.found)


@dataclass(frozen=True)
class Refused:
    """A worker that may not compute for this run, and why."""

    reason: str


def compute(bench: Bench, job: Job, targets: Sequence[NamedModel] | None = None) -> Computed:
    """A job on this bench; whatever case, attack or model raise becomes a :class:`Failure`."""
    chosen = job.targets if targets is None else tuple(targets)
    try:
        return Computed(tuple(bench.run(job, chosen)))
    except CASE_FAILURES as error:
        # Without a volume there is nothing to score on any target.
        return Computed((Failure.of(error),) * len(chosen))


_ONE_AT_A_TIME = threading.RLock()
# A process may have several threads (Dask's default has as many as cores), but one network and one device.


def greet(assignment: Assignment, case: str) -> Answer | Refused:
    """What this process has for a run; it resolves the assignment, which takes a while the first time.

    Args:
        assignment: what the run was asked.
        case: the one whose fingerprint is compared; empty for none.
    """
    with _ONE_AT_A_TIME:
        try:
            return _answer(assignment, case)
        except CASE_FAILURES as error:
            return Refused(f"it cannot do what was asked: {Failure.of(error).reason}")


def run_job(spec: JobSpec) -> Computed | Refused:
    """Compute one job in a worker."""
    with _ONE_AT_A_TIME:
        mine = greet(spec.assignment, spec.expected.case)
        if isinstance(mine, Refused):
            return mine
        problem = disagreement(spec.expected, mine)
        if problem:
            return Refused(problem)
        bench = _bench(spec.assignment)
        return Computed(compute(bench, spec.key.find(bench.plan)).found, mine.place)


@lru_cache(maxsize=1)
def _answer(assignment: Assignment, case: str) -> Answer:
    return answer(_bench(assignment), case, None if assignment.keep is None else assignment.keep.out)


@lru_cache(maxsize=1)
def _bench(assignment: Assignment) -> Bench:
    # A worker resolves names; importing what that needs would slow the start of runs without workers.
    from ..plan.build import build_plan

    plan = build_plan(assignment.crossing, assignment.computing)
    return Bench(plan, save=requested_saver(assignment.keep, plan))
