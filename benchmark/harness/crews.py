"""Who computes: workers with names, who come and go. One interface for processes, Dask and any executor."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any, Protocol

from ..specs.spec import UnfinishedError
from .faults import CASE_FAILURES, reason_of


class WorkerLostError(RuntimeError):
    """A worker was gone before it answered; the message says how it ended."""


class Crew(Protocol):
    """Workers of a run."""

    @property
    def where(self) -> str:
        """Where workers come from, for people."""
        ...

    @property
    def many(self) -> int:
        """How many workers one name stands for."""
        ...

    def workers(self) -> Collection[str]:
        """Names of the workers that are there now.

        Raises:
            UnfinishedError: there will be none any more.
        """
        ...

    def submit(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have one worker compute something; the future raises :class:`WorkerLostError` when the worker dies."""
        ...

    def replace(self, worker: str) -> None:
        """Put a new process in the place of one that is no longer sound."""
        ...

    def close(self) -> None:
        """Send everybody home at once, whatever they are doing."""
        ...


class ExecutorCrew:
    """Any ``concurrent.futures.Executor``: its workers have no names, so that one name stands for all of them.

    Args:
        executor: stays open; whoever made it closes it.
        workers: how many jobs it computes at once; None to ask it.
    """

    def __init__(self, executor: Executor, workers: int | None = None) -> None:
        told = workers or getattr(executor, "_max_workers", None) or getattr(executor, "num_workers", None)
        self._executor, self._many = executor, max(int(told or 1), 1)
        self._futures: set[Future[Any]] = set()
        self._broken = ""

    @property
    def where(self) -> str:
        return f"the {type(self._executor).__name__}"

    @property
    def many(self) -> int:
        return self._many

    def workers(self) -> Collection[str]:
        if self._broken:
            raise UnfinishedError(
                f"{self.where} lost a process and takes no more jobs ({self._broken}); what is finished is recorded, the "
                "same call with a new executor continues (--workers replaces lost processes by itself)"
            )
        return ("executor",)

    def submit(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:  # noqa: ARG002
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()
        try:
            inner = self._executor.submit(function, *arguments)
        except RuntimeError as error:  # broken, or closed by its owner
            self._broken = str(error)
            result.set_exception(WorkerLostError(self._broken))
            return result
        self._futures.add(inner)
        inner.add_done_callback(lambda done: self._pass_on(done, result))
        return result

    def _pass_on(self, inner: Future[Any], result: Future[Any]) -> None:
        self._futures.discard(inner)
        try:
            result.set_result(inner.result())
        except (BrokenExecutor, CancelledError) as error:
            self._broken = reason_of(error)
            result.set_exception(WorkerLostError(self._broken))
        except CASE_FAILURES as error:
            result.set_exception(error)

    def replace(self, worker: str) -> None:
        """Nobody can tell an executor to."""

    def close(self) -> None:
        for future in list(self._futures):
            future.cancel()
