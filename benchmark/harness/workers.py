"""Who computes the jobs of a run: from what was asked to a crew."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustvox.datasets import Dataset

from ..plan.model_text import absolute_model
from ..records.sources import path_of
from .crews import Crew, ExecutorCrew
from .jobs import Assignment

if TYPE_CHECKING:
    from ..specs.crossing import Computing
    from ..specs.requests import RunRequest


@contextmanager
def crew_of(computing: Computing, executor: Executor | None = None) -> Iterator[Crew | None]:
    """Who computes; None for this process, one job after another. Processes that were started here end with it.

    Args:
        computing: its ``scheduler``, ``workers`` and ``device``.
        executor: goes before what is asked there; a Dask client may stand for one.

    Raises:
        UsageError: Dask is not installed, or no scheduler answers at the address.
    """
    crew: Crew | None = None
    if executor is not None:
        crew = _crew_around(executor, computing.workers or None)
    elif computing.scheduler is not None:
        from .dask_crew import connect

        crew = connect(computing.scheduler)
    elif computing.workers > 0:
        from .processes import ProcessCrew

        # Threads are shared out, or the workers would slow each other down.
        threads = max(torch.get_num_threads() // computing.workers, 1)
        crew = ProcessCrew(computing.workers, threads=threads, environments=environments(computing.device))
    try:
        yield crew
    finally:
        if crew is not None:
            crew.close()


def _crew_around(executor: Executor, workers: int | None) -> Crew:
    """An executor, or what Dask has in its place: a client, whose workers are known by name."""
    if type(executor).__module__.partition(".")[0] == "distributed":
        from .dask_crew import DaskCrew, quiet_dask

        quiet_dask()
        client: Any = getattr(executor, "_client", executor)  # its executor keeps the client it came from
        return DaskCrew(client)
    return ExecutorCrew(executor, workers)


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


def assign(request: RunRequest, dataset: Dataset) -> Assignment:
    """What workers are told of a run: paths from the root, so that they mean the same in another folder.

    Args:
        request: as typed.
        dataset: what its ``dataset`` turned out to be.
    """
    crossing, writing, path = request.crossing, request.writing, path_of(dataset)
    crossing = replace(
        crossing,
        dataset=crossing.dataset if path is None else str(_absolute(Path(path))),
        dataset_name=dataset.name,
        models=tuple(map(absolute_model, crossing.models)),
        targets=tuple(map(absolute_model, crossing.targets)),
        checkpoints=tuple(map(_absolute, crossing.checkpoints)),
        data_root=None if crossing.data_root is None else _absolute(crossing.data_root),
        adversarial=None if crossing.adversarial is None else _absolute(crossing.adversarial),
    )
    keep = replace(writing, out=_absolute(writing.out)) if writing.save_adversarial else None
    return Assignment(crossing, request.computing, keep)


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()
