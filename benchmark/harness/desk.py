"""Where volumes are scored and written: by this process at once, or beside it while it attacks the next.

On a GPU this process launches the kernels, and the card waits for it. Scores, HD95 and files are the work of the host:
other processes do it there, each with its own interpreter, so that none of them holds up a launch. On a CPU they would
only compete with the attack for its cores.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from robustvox.datasets import Volume

from ..craft.meter import Cost
from ..craft.named import NamedModel
from ..plan.plan import Job
from .compute import ElsewhereError, Failure, Outcome, Scored
from .faults import CASE_FAILURES
from .processes import ProcessCrew
from .scoring import Change, Judged, PreparedCase

T = TypeVar("T")
Result = TypeVar("Result", covariant=True)

_MOST_PROCESSES = 4
_WAITING_BYTES = 1 << 30  # of volumes and predictions that wait to be scored
_KNOWN_BYTES = 1 << 29  # of cases that a process remembers; the last two in any case


class Later(Protocol[Result]):
    """A result that may not be there yet."""

    def done(self) -> bool:
        """Whether :meth:`result` has nothing to wait for."""
        ...

    def result(self) -> Result:
        """The result, waited for.

        Raises:
            CASE_FAILURES: whatever went wrong.
        """
        ...


class Desk(Protocol):
    """Does with a case what a function says."""

    def submit(self, case: PreparedCase, function: Callable[..., T], *arguments: Any) -> Later[T]:
        """``function(case, *arguments)``, now or soon; a function at the top of a module, and plain arguments."""
        ...

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be given."""
        ...

    def close(self) -> None:
        """Stop at once."""
        ...


@dataclass(frozen=True)
class Scoring:
    """A prediction that is being scored, or is about to be.

    Attributes:
        job: what was crafted.
        target: the model that predicted, as it reads the case.
        volume: the case.
        images: what was predicted, ``(1, C, *spatial)``.
        prediction: class ids ``(*spatial)``.
        cost: of crafting.
        flags: of attack, protocol and model.
        patient: whom the case is of.
        change: how far the volume is from the case.
        judged: the scores.
        kept: volume and predictions are written; empty where they are not.
    """

    job: Job
    target: NamedModel
    volume: Volume
    images: Tensor
    prediction: np.ndarray
    cost: Cost
    flags: tuple[str, ...]
    patient: str
    change: Later[Change]
    judged: Later[Judged]
    kept: tuple[Later[None], ...]

    def done(self) -> bool:
        """Whether :meth:`scored` has nothing to wait for."""
        return all(part.done() for part in (self.change, self.judged, *self.kept))

    def scored(self) -> Scored:
        """The scores, waited for.

        Raises:
            CASE_FAILURES: whatever went wrong while they were made or the files were written.
        """
        for part in self.kept:
            part.result()
        change, judged = self.change.result(), self.judged.result()
        outcome = Outcome(
            scores=judged.scores,
            cost=self.cost,
            distortion=change.distortion,
            success=judged.success,
            channels=change.channels,
            flags=self.flags,
            prompts=self.target.prompts,
            blind=self.target.blind,
            patient=self.patient,
        )
        return Scored(self.job, self.target, self.volume, self.images, self.prediction, outcome)


class _Now(Generic[T]):
    def __init__(self, value: T) -> None:
        self._value = value

    def done(self) -> bool:
        return True

    def result(self) -> T:
        return self._value


class OwnDesk:
    """This process: everything is done when it is asked for, and raises there."""

    full = False

    def submit(self, case: PreparedCase, function: Callable[..., T], *arguments: Any) -> Later[T]:
        return _Now(function(case, *arguments))

    def close(self) -> None:
        """Nothing to stop."""


class SideDesk:
    """Processes beside this one. What they cannot do, because one died, this process does itself.

    A case travels to a process once. Call :meth:`close` at the end.

    Args:
        processes: how many; None for a quarter of the cores, at most four.
    """

    def __init__(self, processes: int | None = None) -> None:
        count = _processes() if processes is None else processes
        self._crew = ProcessCrew(count, threads=1, environments=({"CUDA_VISIBLE_DEVICES": ""},))
        self._known: dict[str, OrderedDict[tuple[str, str], int]] = {
            w: OrderedDict() for w in self._crew.workers()
        }
        self._waiting: dict[str, list[Future[Any]]] = {name: [] for name in self._known}
        self._bytes: dict[Future[Any], int] = {}
        for name in self._known:
            self._crew.submit(name, abs, 0)  # loads the code while networks are loaded here

    @property
    def full(self) -> bool:
        return sum(size for future, size in list(self._bytes.items()) if not future.done()) > _WAITING_BYTES

    def submit(self, case: PreparedCase, function: Callable[..., T], *arguments: Any) -> Later[T]:
        worker = self._least_busy(case)
        known = self._known[worker]
        sent = None if case.key in known else case
        known[case.key] = _size(case)
        known.move_to_end(case.key)
        while len(known) > 2 and sum(known.values()) > _KNOWN_BYTES:
            known.popitem(last=False)
        future = self._crew.submit(worker, _do, sent, case.key, tuple(known), function, arguments)
        self._waiting[worker].append(future)
        self._bytes[future] = sum(part.nbytes for part in arguments if isinstance(part, np.ndarray))
        return _Asked(future, lambda: function(case, *arguments), known.clear)

    def close(self) -> None:
        self._crew.close()

    def _least_busy(self, case: PreparedCase) -> str:
        for name, futures in self._waiting.items():
            self._waiting[name] = [future for future in futures if not future.done()]
        self._bytes = {future: size for future, size in self._bytes.items() if not future.done()}
        return min(
            self._waiting, key=lambda name: (len(self._waiting[name]), case.key not in self._known[name])
        )


class _Asked(Generic[T]):
    """What another process was asked for.

    Args:
        future: of its answer.
        here: does it in this process.
        forget: whatever that process was thought to know.
    """

    def __init__(self, future: Future[Any], here: Callable[[], T], forget: Callable[[], object]) -> None:
        self._future, self._here, self._forget = future, here, forget

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        try:
            answer = self._future.result()
        except CASE_FAILURES:  # it died, or could not be given this: what is wrong shows when it is done here
            answer = None
        if answer is None:
            self._forget()
            return self._here()
        value, failure = answer
        if failure is not None:
            raise ElsewhereError(failure)
        return value


_CASES: dict[tuple[str, str], PreparedCase] = {}
"""Of a process beside: the cases it was sent and is to remember."""


def _do(
    case: PreparedCase | None,
    key: tuple[str, str],
    known: tuple[tuple[str, str], ...],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> tuple[Any, Failure | None] | None:
    """What a process beside does; None where it does not know the case, because it is new."""
    if case is not None:
        _CASES[key] = case
    for old in [old for old in _CASES if old not in known]:
        del _CASES[old]
    if key not in _CASES:
        return None
    try:
        return function(_CASES[key], *arguments), None
    except CASE_FAILURES as error:
        return None, Failure.of(error)


def _size(case: PreparedCase) -> int:
    """Bytes of a case, as good as: its image, and its label in the forms that scoring keeps."""
    return case.volume.image.nbytes + 4 * case.volume.label.nbytes


def _processes() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_PROCESSES, cores // 4))
