"""Who computes the jobs of a run: from what was asked to a crew."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from robustvox.datasets import Dataset

from ..plan.model_text import absolute_model
from ..records.sources import path_of
from .crews import Crew, ExecutorCrew

if TYPE_CHECKING:
    from ..specs.requests import RunRequest


@contextmanager
def crew_of(request: RunRequest, executor: Executor | None = None) -> Iterator[Crew | None]:
    """Who computes; None for this process, one job after another. Processes that were started here end with it.

    Args:
        request: its ``scheduler``, ``workers`` and ``device``.
        executor: goes before what the request says.

    Raises:
        UsageError: Dask is not installed, or no scheduler answers at the address.
    """
    crew: Crew | None = None
    if executor is not None:
        crew = ExecutorCrew(executor, request.workers or None)
    elif request.scheduler is not None:
        from .dask_crew import connect

        crew = connect(request.scheduler)
    elif request.workers > 0:
        from .processes import ProcessCrew

        # Threads are shared out, or the workers would slow each other down.
        threads = max(torch.get_num_threads() // request.workers, 1)
        crew = ProcessCrew(request.workers, threads=threads, environments=environments(request.device))
    try:
        yield crew
    finally:
        if crew is not None:
            crew.close()


def environments(device: str) -> Sequence[Mapping[str, str]]:
    """Variables of worker processes: on a machine with several cards each sees one, its own ``cuda:0``.

    Example:
        >>> environments("cpu"), environments("cuda:1")
        (({},), ({},))
    """
    cards = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if cards < 2:
        return ({},)
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(names) != cards:
        names = [str(card) for card in range(cards)]
    return tuple({"CUDA_VISIBLE_DEVICES": name.strip()} for name in names)


def portable(request: RunRequest, dataset: Dataset) -> RunRequest:
    """What was asked, so that it means the same in another folder, on another machine: paths from the root.

    Args:
        request: as typed.
        dataset: what its ``dataset`` turned out to be.
    """
    path = path_of(dataset)
    return replace(
        request,
        dataset=request.dataset if path is None else str(_absolute(Path(path))),
        dataset_name=dataset.name,
        models=tuple(map(absolute_model, request.models)),
        targets=tuple(map(absolute_model, request.targets)),
        checkpoints=tuple(map(_absolute, request.checkpoints)),
        data_root=None if request.data_root is None else _absolute(request.data_root),
        adversarial=None if request.adversarial is None else _absolute(request.adversarial),
        out=_absolute(request.out),
    )


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()
