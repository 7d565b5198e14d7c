"""Worker processes of this machine: one job at a time each, replaced when they die, gone when this process is."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple

from .crews import WorkerLostError
from .faults import CASE_FAILURES, exit_reason

_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _SERVER else "spawn")
# A fork of a process with threads or a GPU does not work. A process that has loaded the code and done nothing else is
# forked, so that a new worker costs no new loading of torch; where that cannot be, each loads it.
_PAUSES_S = (0.2, 1.0, 5.0)  # before a process is started again that could not even be started
_LOADED = ["robustvox.benchmark.plan.build", "robustvox.benchmark.harness.jobs"]


class ProcessCrew:
    """Processes of this machine.

    ``concurrent.futures.ProcessPoolExecutor`` ends with its first dead process and takes every job in it along. Here a
    dead process costs the job it had; a new one takes its place. A job that waits in the queue of a process is not lost
    with it.

    Args:
        count: of processes.
        threads: of a computation in each.
        environments: variables of each, such as the card it sees; fewer than ``count`` are shared out in turn.

    Example:
        >>> crew = ProcessCrew(1)
        >>> try:
        ...     crew.submit("worker 1", abs, -3).result()
        ... finally:
        ...     crew.close()
        3
    """

    def __init__(
        self, count: int, *, threads: int = 1, environments: Sequence[Mapping[str, str]] = ({},)
    ) -> None:
        if _SERVER:
            _CONTEXT.set_forkserver_preload(_LOADED)
        self._lanes = {
            f"worker {i + 1}": _Lane(f"worker {i + 1}", threads, environments[i % len(environments)])
            for i in range(count)
        }
        atexit.register(self.close)  # else Python would wait for them when it ends

    where = "this machine"
    many = 1

    def workers(self) -> Collection[str]:
        return self._lanes

    def submit(self, worker: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._lanes[worker].submit(function, arguments)

    def replace(self, worker: str) -> None:
        """Done already: a process whose answer is ``unsound`` ends with it."""

    def close(self) -> None:
        atexit.unregister(self.close)
        for lane in self._lanes.values():
            lane.close()


class _Call(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Lane:
    """One worker: a process, and the thread of this process that talks to it."""

    def __init__(self, name: str, threads: int, environment: Mapping[str, str]) -> None:
        self._threads, self._environment = threads, dict(environment)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._closed = False
        self._process: Any = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._talk, name=name, daemon=True).start()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.exitcode is None else None

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._calls.put(_Call(future, function, arguments))
        return future

    def close(self) -> None:
        self._closed = True
        self._calls.put(None)
        self._kill()

    def _kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def _talk(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C goes to every process of a terminal. Workers are started here and inherit that they do not hear it:
            # this process decides what becomes of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while (call := self._calls.get()) is not None and not self._closed:
            try:
                done, answer = self._ask(call)
            except (EOFError, OSError):
                call.future.set_exception(WorkerLostError(self._bury()))
                continue
            except CASE_FAILURES as error:  # what was asked cannot be pickled
                call.future.set_exception(error)
                continue
            if done:
                call.future.set_result(answer)
            else:
                call.future.set_exception(RuntimeError(answer))

    def _ask(self, call: _Call) -> tuple[bool, Any]:
        if self._process is None or self._process.exitcode is not None:
            self._start()
        connection = self._connection
        if connection is None:
            raise EOFError
        connection.send((call.function, call.arguments))
        done, answer = connection.recv()
        if getattr(answer, "unsound", False):
            self._bury()
        return done, answer

    def _start(self) -> None:
        """A new process; what starts them may be killed too, and is then started again by the next try."""
        for pause in _PAUSES_S:
            try:
                self._start_once()
                return
            except (EOFError, OSError):
                if self._closed:
                    raise
                time.sleep(pause)
        self._start_once()

    def _start_once(self) -> None:
        self._bury()
        mine, theirs = _CONTEXT.Pipe()
        try:
            process = _CONTEXT.Process(target=_serve, args=(theirs, self._environment, self._threads))
            process.start()
        finally:
            theirs.close()  # else its end would not be seen when the process dies
        with self._lock:
            self._process, self._connection = process, mine
            if self._closed:  # in the meantime
                process.kill()

    def _bury(self) -> str:
        """Take a dead process off the books; how it ended."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return exit_reason(None)
        process.join(5)
        if process.exitcode is None:
            process.kill()
            process.join()
        return exit_reason(process.exitcode)


def _serve(connection: Connection, environment: Mapping[str, str], threads: int) -> None:
    """The life of a worker process."""
    os.environ.update(environment)  # which card it sees is read when it first asks for one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from robustvox.models import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):  # nobody asks any more
        sound = True
        while sound:
            reply = _answer(connection)
            connection.send(reply)
            sound = not getattr(reply[1], "unsound", False)
    os._exit(0)


def _answer(connection: Connection) -> tuple[bool, Any]:
    try:
        function, arguments = connection.recv()
    except (EOFError, OSError):
        raise
    except CASE_FAILURES as error:  # a function or value that this process cannot have
        return False, f"{type(error).__name__}: {error}"
    try:
        return True, function(*arguments)
    except CASE_FAILURES as error:  # whatever it is, the one who asked shall know
        import traceback

        return False, "".join(traceback.format_exception(error))


def _end_with_parent() -> None:
    """A parent that was killed cannot say goodbye; nobody would hear what its workers still compute."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
