"""Workers of a Dask scheduler, on one machine or a hundred.

What Dask would decide is decided here, one job at a time: which worker gets it, whether it is tried again, and who is to
blame when a worker dies. Left to itself Dask runs equal submissions once (``pure``), ships everything at once, and lets
every job that waited on a dead worker count as a suspect.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from ..specs.spec import UnfinishedError, UsageError
from .crews import WorkerLostError
from .faults import CASE_FAILURES, reason_of

if TYPE_CHECKING:
    from distributed import Client

_LOOK_S = 0.5
"""Between two questions who is there; answered in 5 ms."""

CONNECT_S = 10.0


class DaskCrew:
    """The workers that a Dask scheduler knows, each by its address.

    Args:
        client: connected; whoever made it closes it, unless this crew shall.
        owned: whether :meth:`close` closes the client.
    """

    many = 1

    def __init__(self, client: Client, *, owned: bool = False) -> None:
        self._client, self._owned = client, owned
        self._courier = _make_courier()
        self._address = str(client.scheduler.address) if client.scheduler is not None else "?"
        self._there: frozenset[str] = frozenset()
        self._unsound: set[str] = set()
        self._looked = -float("inf")
        self._waiting: dict[Future[Any], tuple[str, Any]] = {}
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return f"the scheduler at {self._address}"

    def workers(self) -> Collection[str]:
        if time.monotonic() - self._looked >= _LOOK_S:
            try:
                threads: Any = self._client.nthreads()
                there = frozenset(threads)
            except CASE_FAILURES as error:  # closed, refused, timed out, cancelled: it is not there any more
                raise UnfinishedError(
                    f"expected {self.where} to answer, found: {type(error).__name__}; what is finished is recorded, start "
                    "it again and the same command continues"
                ) from error
            self._there, self._looked = there, time.monotonic()
            self._mourn(there)
        return self._there - self._unsound

    def submit(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()
        from distributed.protocol.pickle import dumps  # as Dask sends everything between its own processes

        try:
            task = self._client.submit(
                self._courier,
                dumps((function, arguments)),
                pure=False,
                workers=[worker],
                allow_other_workers=False,
                retries=0,
            )
        except CASE_FAILURES as error:  # the scheduler went away in this moment; the next question says so
            result.set_exception(WorkerLostError(f"{self.where} takes no job: {type(error).__name__}"))
            return result
        with self._lock:
            self._waiting[result] = (worker, task)
        task.add_done_callback(lambda _: self._pass_on(result))
        return result

    def replace(self, worker: str) -> None:
        self._unsound.add(worker)
        with contextlib.suppress(*CASE_FAILURES):  # without a nanny there is nobody who could start it again
            self._client.restart_workers([worker], timeout=30, raise_for_error=False)

    def close(self) -> None:
        with self._lock:
            tasks = [task for _, task in self._waiting.values()]
            self._waiting.clear()
        with contextlib.suppress(*CASE_FAILURES):
            self._client.cancel(tasks, force=True)
        if self._owned:
            with contextlib.suppress(*CASE_FAILURES):
                self._client.close(timeout=2)

    def _pass_on(self, result: Future[Any]) -> None:
        """Runs in a thread of Dask's as soon as a task ended, however."""
        with self._lock:
            _, task = self._waiting.pop(result, (None, None))
        if task is None:
            return
        try:
            value = task.result(timeout=60)
        except CASE_FAILURES as error:
            _settle(result, _translated(error))
        else:
            _settle(result, value)

    def _mourn(self, there: Collection[str]) -> None:
        """A job that was bound to a worker that is gone would wait for ever."""
        with self._lock:
            lost = [(r, *pair) for r, pair in self._waiting.items() if pair[0] not in there]
            for result, _, _ in lost:
                del self._waiting[result]
        for result, _, task in lost:
            with contextlib.suppress(*CASE_FAILURES):
                task.cancel(force=True)
            _settle(result, WorkerLostError("the scheduler lost it"))


def connect(address: str) -> DaskCrew:
    """The crew of a scheduler.

    Raises:
        UsageError: Dask is not installed, or no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            'expected Dask for --scheduler, found none; pip install "robustvox[cluster]"'
        ) from error
    quiet_dask()
    try:
        return DaskCrew(Client(address, timeout=CONNECT_S), owned=True)
    except (OSError, ValueError) as error:
        found = " ".join(str(error).split())
        raise UsageError(f"expected a Dask scheduler at {address}, found none: {found}") from error


def quiet_dask() -> None:
    """Dask's client reports a lost connection as a traceback; a run says it in one line of its own."""
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _make_courier() -> Callable[[bytes], Any]:
    """A function that travels as its code: a scheduler unpickles what it hands on and need not have this package."""

    def call(payload: bytes) -> Any:
        from distributed.protocol.pickle import loads

        function, arguments = loads(payload)
        return function(*arguments)

    return call


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, CancelledError) or type(error).__name__ in ("KilledWorker", "FutureCancelledError"):
        return WorkerLostError(reason_of(error))
    if isinstance(error, TimeoutError | OSError) and "distributed" in type(error).__module__:
        return WorkerLostError(f"its answer did not arrive: {type(error).__name__}")
    return error


def _settle(result: Future[Any], value: Any) -> None:
    with contextlib.suppress(InvalidStateError):
        if isinstance(value, BaseException):
            result.set_exception(value)
        else:
            result.set_result(value)
