"""Running jobs in other processes: a local pool, or a Dask scheduler. Both speak ``concurrent.futures``.

A job travels as names, not as tensors: every worker resolves the same request once and keeps its networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .harness import CaseCache, Job, Outcome, Plan, Submit, compute
from .loading import NamedModel
from .specs import UsageError

if TYPE_CHECKING:
    from .running import RunRequest


@contextmanager
def submitter(request: RunRequest) -> Iterator[Submit | None]:
    """How to hand jobs out: None means here, one after another.

    Raises:
        UsageError: if the scheduler cannot be reached or Dask is not installed.
    """
    if request.scheduler is not None:
        client = _dask_client(request.scheduler)
        with client:
            yield _through(client.get_executor(), request)
    elif request.workers > 1:
        # Threads are shared out, or the workers would slow each other down.
        threads = max(torch.get_num_threads() // request.workers, 1)
        with ProcessPoolExecutor(
            request.workers,
            mp_context=get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(threads,),
        ) as pool:
            yield _through(pool, request)
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


def _through(executor: Executor, request: RunRequest) -> Submit:
    def submit(job: Job, targets: tuple[NamedModel, ...]):
        surrogate = job.surrogate.name if job.surrogate else None
        attack = job.attack.spec if job.attack else None
        saved = job.saved.path if job.saved else None
        names = tuple(t.name for t in targets)
        return executor.submit(work, request, job.case, surrogate, attack, names, saved)

    return submit


def work(
    request: RunRequest,
    case: str,
    surrogate: str | None,
    attack: str | None,
    targets: tuple[str, ...],
    saved: Path | None = None,
) -> list[Outcome]:
    """Compute one job in a worker; the names are those of the request's own plan."""
    plan, cases = _worker(request)
    models = {model.name: model for model in (*plan.surrogates, *plan.targets)}
    attacks = {named.spec: named for named in plan.attacks}
    scored = tuple(models[name] for name in targets)
    job = Job(
        case,
        models[surrogate] if surrogate else None,
        attacks[attack] if attack else None,
        scored,
        next((v for v in plan.saved if v.path == saved), None),
    )
    volume, _, scorer = cases(case)
    return compute(plan, job, scored, volume, scorer)


@lru_cache(maxsize=1)
def _worker(request: RunRequest) -> tuple[Plan, CaseCache]:
    from .running import build_plan

    plan = build_plan(request)
    return plan, CaseCache(plan)
