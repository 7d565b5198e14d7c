"""Running jobs in other processes: a local pool, or a Dask scheduler. Both speak ``concurrent.futures``.

A job travels as names and hashes, not as tensors: every worker resolves the same request once and keeps its
networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..craft.named import NamedModel
from ..plan.plan import Job, Plan
from ..specs.spec import UsageError
from .bench import Bench, requested_saver
from .compute import Failure, Outcome
from .execute import Submit

if TYPE_CHECKING:
    from ..specs.crossing import Computing, Crossing, Writing


@dataclass(frozen=True)
class Assignment:
    """What a worker resolves for itself, once: what is crossed and how; where volumes go, if they are kept."""

    crossing: Crossing
    computing: Computing
    keep: Writing | None


@contextmanager
def submitter(assignment: Assignment) -> Iterator[Submit | None]:
    """How to hand jobs out: None means here, one after another.

    Raises:
        UsageError: if the scheduler cannot be reached or Dask is not installed.
    """
    workers, scheduler = assignment.computing.workers, assignment.computing.scheduler
    if scheduler is not None:
        client = _dask_client(scheduler)
        with client:
            yield _through(client.get_executor(), assignment)
    elif workers > 1:
        # Threads are shared out, or the workers would slow each other down.
        threads = max(torch.get_num_threads() // workers, 1)
        with ProcessPoolExecutor(
            workers,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(threads,),
        ) as pool:
            yield _through(pool, assignment)
    else:
        yield None


def _dask_client(address: str):
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            'expected Dask for --scheduler, found none; pip install "robustvox[cluster]"'
        ) from error
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a Dask scheduler at {address}, found none: {error}") from error


def _through(executor: Executor, assignment: Assignment) -> Submit:
    def submit(job: Job, targets: tuple[NamedModel, ...]):
        return executor.submit(work, assignment, JobKey.of(job, targets))

    return submit


@dataclass(frozen=True)
class JobKey:
    """A job as it travels: models by name and sha256, the attack by its spec, a saved volume by its path."""

    case: str
    surrogate: tuple[str, str] | None
    attack: str | None
    targets: tuple[tuple[str, str], ...]
    saved: Path | None

    @classmethod
    def of(cls, job: Job, targets: tuple[NamedModel, ...]) -> JobKey:
        """The key of a job that is scored on ``targets``."""
        return cls(
            case=job.case,
            surrogate=job.surrogate.key if job.surrogate else None,
            attack=job.attack.spec if job.attack else None,
            targets=tuple(target.key for target in targets),
            saved=job.saved.path if job.saved else None,
        )

    def find(self, plan: Plan) -> Job:
        """The job of ``plan`` with this key.

        Raises:
            RuntimeError: the worker resolved the request to other models than the run.
        """
        models = {model.key: model for model in plan.models}
        attacks = {named.spec: named for named in plan.attacks}
        saved = {volume.path: volume for volume in plan.saved}
        missing = [key for key in (self.surrogate, *self.targets) if key is not None and key not in models]
        if missing:
            name, sha256 = missing[0]
            found = ", ".join(f"{n} {sha[:8]}" for n, sha in models) or "none"
            raise RuntimeError(
                f"expected the worker to have {name} with sha256 {sha256[:8]}, found {found}; give every worker the "
                "same checkpoints and code"
            )
        return Job(
            self.case,
            models[self.surrogate] if self.surrogate else None,
            attacks[self.attack] if self.attack else None,
            tuple(models[key] for key in self.targets),
            saved[self.saved] if self.saved else None,
        )


def work(assignment: Assignment, key: JobKey) -> list[Outcome | Failure]:
    """Compute one job in a worker, which resolves what it was assigned once."""
    bench = _worker(assignment)
    return bench.run(key.find(bench.plan))


@lru_cache(maxsize=1)
def _worker(assignment: Assignment) -> Bench:
    # A worker resolves names; importing what that needs would slow the start of runs without workers.
    from ..plan.build import build_plan

    plan = build_plan(assignment.crossing, assignment.computing)
    return Bench(plan, save=requested_saver(assignment.keep, plan))
