"""The harness: crosses cases, surrogates, attacks and targets; one job crafts one adversarial volume.

An adversarial volume is crafted once per (surrogate, case, attack) and scored on every target that lacks its
record. Nothing here keeps state between jobs but caches, so the order of jobs changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from ..craft.named import NamedModel
from ..plan.plan import Job, Plan
from ..records.store import RecordStore
from ..records.unit import Unit
from .bench import Bench
from .compute import Failure, Outcome
from .faults import CASE_FAILURES


class Status(StrEnum):
    """What became of a job."""

    COMPUTED = "computed"
    RECORDED = "recorded"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """What happened to one job, for progress: computed, found in the records, or failed with ``error``."""

    job: Job
    status: Status
    units: tuple[Unit, ...]
    error: str = ""


Submit = Callable[[Job, tuple[NamedModel, ...]], "Future[list[Outcome | Failure]]"]
"""Hands a job and its targets to another process."""


def execute(
    bench: Bench,
    store: RecordStore,
    provenance: str = "",
    *,
    recompute: bool = False,
    submit: Submit | None = None,
) -> Iterator[Event]:
    """Run every job of the bench's plan whose records are missing, appending as each finishes.

    Failures of a case, an attack or a target become failure rows of what failed; the iteration goes on. With
    ``submit`` the jobs run elsewhere and finish in any order; this process stays the only writer.
    """
    plan = bench.plan
    elsewhere: dict[Future[list[Outcome | Failure]], _Pending] = {}
    for job in plan.jobs():
        try:
            data_sha256 = bench.case(job.case).data_sha256
        except CASE_FAILURES as error:
            pending = _Pending(job, job.targets, "", (), provenance)
            yield _all_failed(plan, store, pending, error)
            continue
        units = tuple(plan.unit(job, target, data_sha256) for target in job.targets)
        missing = tuple(t for t, u in zip(job.targets, units, strict=True) if recompute or not store.done(u))
        pending = _Pending(job, missing, data_sha256, units, provenance)
        if not missing:
            yield Event(job, Status.RECORDED, units)
        elif submit is not None:
            elsewhere[submit(job, missing)] = pending
        else:
            yield _record(plan, store, pending, partial(bench.run, job, missing))
    for future in as_completed(elsewhere):
        yield _record(plan, store, elsewhere[future], future.result)


@dataclass(frozen=True)
class _Pending:
    """A job that has to be computed, and what its records will need."""

    job: Job
    targets: tuple[NamedModel, ...]
    data_sha256: str
    units: tuple[Unit, ...]
    provenance: str


def _record(
    plan: Plan, store: RecordStore, pending: _Pending, produce: Callable[[], Sequence[Outcome | Failure]]
) -> Event:
    try:
        produced = produce()
        reasons: list[str] = []
        for target, found in zip(pending.targets, produced, strict=True):
            unit = plan.unit(pending.job, target, pending.data_sha256)
            if isinstance(found, Failure):
                store.fail(unit, found.reason)
                reasons.append(found.reason)
            else:
                store.append(unit, found.score_rows(), found.cost_row(pending.provenance))
    except CASE_FAILURES as error:
        return _all_failed(plan, store, pending, error)
    if reasons:
        return Event(pending.job, Status.FAILED, pending.units, "; ".join(dict.fromkeys(reasons)))
    return Event(pending.job, Status.COMPUTED, pending.units)


def _all_failed(plan: Plan, store: RecordStore, pending: _Pending, error: BaseException) -> Event:
    """A failure row per target: without a volume there is nothing to score."""
    failure = Failure.of(error)
    units = tuple(plan.unit(pending.job, target, pending.data_sha256) for target in pending.targets)
    for unit in units:
        store.fail(unit, failure.reason)
    return Event(pending.job, Status.FAILED, units, failure.reason)
