"""The order in which the jobs of a plan are computed: case by case, or several cases with one attack on one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ..craft.batches import Company
from ..craft.named import NamedModel
from ..plan.plan import Job
from ..records.unit import Unit
from .bench import Bench


@dataclass(frozen=True)
class Pending:
    """A job that has to be computed, and what its records will need."""

    job: Job
    targets: tuple[NamedModel, ...]
    data_sha256: str
    units: tuple[Unit, ...]


Other = TypeVar("Other")
Round = tuple[Pending, ...]


def in_rounds(found: Iterable[Other | Pending], bench: Bench) -> Iterator[Other | Round]:
    """Jobs that are crafted in one go, the others one by one; what is no job passes.

    Cases that may be attacked together wait until there are as many as fit. Then come their clean images, and attack
    by attack all of them. The order follows from the plan, the records and the size of a batch alone.

    Args:
        found: what became of the jobs of a plan, in its order.
        bench: where they will be computed; it keeps the cases that wait.
    """
    block: list[Pending] = []
    waiting: list[list[Pending]] = []
    for item in found:
        if not isinstance(item, Pending):
            yield item
            continue
        if block and item.job.case != block[-1].job.case:
            yield from _closed(block, waiting, bench)
            block = []
        if bench.case_batch == 1:
            yield (item,)
        else:
            block.append(item)
    if block:
        yield from _closed(block, waiting, bench)
    yield from _crossed(waiting, bench)


def _closed(block: list[Pending], waiting: list[list[Pending]], bench: Bench) -> Iterator[Round]:
    """All jobs of a case are known: they wait for those of other cases, or are done now."""
    room = max(bench.room(pending.job) for pending in block)
    if room == 1:
        yield from ((pending,) for pending in block)
        return
    waiting.append(block)
    bench.hold([jobs[0].job.case for jobs in waiting])
    if len(waiting) >= room:
        yield from _crossed(waiting, bench)
        waiting.clear()


def _crossed(waiting: list[list[Pending]], bench: Bench) -> Iterator[Round]:
    """The jobs of several cases, by what is done to them."""
    same: dict[object, list[Pending]] = {}
    for block in waiting:
        for pending in block:
            job = pending.job
            attacked = job.attack and job.surrogate and (job.surrogate.key, job.attack.spec)
            same.setdefault(attacked or "read", []).append(pending)
    for pendings in same.values():
        yield from _companies(pendings, bench)
    bench.hold([])


def _companies(pendings: list[Pending], bench: Bench) -> Iterator[Round]:
    open_rounds: list[tuple[Company, list[Pending]]] = []
    rounds: list[list[Pending]] = []
    for pending in pendings:
        company = bench.company(pending.job)
        room = bench.room(pending.job)
        there = next((jobs for known, jobs in open_rounds if known == company and len(jobs) < room), None)
        if there is not None:
            there.append(pending)
            continue
        rounds.append([pending])
        if company is not None:
            open_rounds.append((company, rounds[-1]))
    yield from map(tuple, rounds)
