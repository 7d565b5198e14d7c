"""Jobs that are crafted together where memory may run out: batches are halved, and no case is lost for another's sake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from robustvox.models import SlidingWindow
from robustvox.models.window_memory import give_back, release

from ..craft.crafting import Crafted
from ..plan.plan import Job
from .compute import Failure
from .faults import CASE_FAILURES, Kind, kind_of


class Room:
    """How many jobs of each model go together on a device, and less once memory ran out.

    Args:
        device: where the models run.
        alone: crafts one job.
        together: crafts several at once.
    """

    def __init__(
        self,
        device: str,
        alone: Callable[[Job], Crafted],
        together: Callable[[Sequence[Job]], list[Crafted]],
    ) -> None:
        self._device = torch.device(device)
        self._alone, self._together = alone, together
        self._most: dict[tuple[str, str], int] = {}

    def most(self, jobs: Sequence[Job], otherwise: int) -> int:
        """How many of these jobs go together; ``otherwise`` where memory never ran out, and never more."""
        known = (self._most.get(job.surrogate.key) for job in jobs if job.surrogate is not None)
        return min((otherwise, *(room for room in known if room is not None)))

    def craft(self, jobs: Sequence[Job]) -> list[Crafted | Failure]:
        """The volumes of jobs.

        A batch that runs out of memory is halved, also the next time, and so are batches put together before. A batch
        that fails otherwise is crafted case by case, so that the case that is to blame fails alone. A case that has
        too little memory alone is tried again when others have given back what they hold.
        """
        if len(jobs) == 1:
            return [self._craft_alone(jobs[0])]
        most = self.most(jobs, len(jobs))
        if most < len(jobs):
            return self._in_parts(jobs, most)
        try:
            return list(self._together(jobs))
        except CASE_FAILURES as error:
            kind, failure = kind_of(error), Failure.of(error)
        if kind is Kind.DEVICE:
            return [failure] * len(jobs)
        if kind is not Kind.MEMORY:
            return self._in_parts(jobs, 1)
        half = len(jobs) // 2
        for model in {job.surrogate.key: job.surrogate for job in jobs if job.surrogate}.values():
            self._most[model.key] = half
            if isinstance(model.predictor, SlidingWindow):
                model.predictor.graphs.drop()  # recordings hold the memory of their batch
        broken = self._release()
        return self._in_parts(jobs, half) if broken is None else [broken] * len(jobs)

    def _in_parts(self, jobs: Sequence[Job], size: int) -> list[Crafted | Failure]:
        parts = [jobs[at : at + size] for at in range(0, len(jobs), size)]
        return [found for part in parts for found in self.craft(part)]

    def _release(self) -> Failure | None:
        """What a full card says is also what a broken one says; then giving back fails, and that is the reason."""
        try:
            release(self._device)
        except CASE_FAILURES as error:
            return Failure.of(error)
        return None

    def _craft_alone(self, job: Job) -> Crafted | Failure:
        try:
            return self._alone(job)
        except CASE_FAILURES as error:
            kind, failure = kind_of(error), Failure.of(error)
        if kind is not Kind.MEMORY or not give_back(self._device):
            return failure
        return self._release() or self._craft_alone(job)
