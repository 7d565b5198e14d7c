"""What may go wrong without ending a run, and what ends it.

Three kinds, told apart here and nowhere else:

- A **case, attack or model fails**, whatever it raises: its row says why, the run goes on.
- A **machine fails**: a worker dies, a device runs out of memory or stays broken. The job is tried again elsewhere, the
  last time alone; after that its row says so (:data:`ATTEMPTS`).
- The **run cannot go on**: no worker, no scheduler, no space for the records. One line says why and how to go on
  (:class:`~robustvox.benchmark.specs.spec.UnfinishedError`); what is finished is recorded, nothing else is.

What nobody worded is probably a mistake in somebody's code, ours included: its traceback goes to a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import traceback
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from robustvox.datasets import DatasetError
from robustvox.models.window_memory import is_out_of_memory

from ..records.unit import RecordsError
from ..specs.spec import UnfinishedError, UsageError

CASE_FAILURES: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What one case, attack or model may raise: anything but an interruption, ``exit()`` in somebody's code included."""

ATTEMPTS = 3
"""How often a job may cost a worker or its memory; the last time nothing else runs."""

ERRORS = "errors.log"
"""Among the records: tracebacks of what nobody worded."""

_LONGEST = 2000  # characters of a reason
_WORDED = (DatasetError, UsageError, RecordsError, UnfinishedError, OSError, MemoryError)
_SPEAKING = (
    ValueError,
    OSError,
    RuntimeError,
    MemoryError,
)  # their texts are sentences; a KeyError's is a key
_BROKEN_DEVICE = re.compile(
    r"CUDA error|HIP error|device-side assert|illegal memory access|misaligned address|unspecified launch failure"
    r"|CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
)


class Kind(StrEnum):
    """What a failure says about where it happened."""

    CASE = "case"
    MEMORY = "memory"
    DEVICE = "device"


def kind_of(error: BaseException) -> Kind:
    """Whether an error is the case's, of a device or host short of memory, or of a device that stays broken.

    After an error of the last kind every later call in the process fails too.

    Example:
        >>> kind_of(KeyError("x")).value, kind_of(MemoryError()).value
        ('case', 'memory')
        >>> kind_of(RuntimeError("CUDA error: an illegal memory access was encountered")).value
        'device'
    """
    if is_out_of_memory(error):
        return Kind.MEMORY
    broken = isinstance(error, RuntimeError) and _BROKEN_DEVICE.search(str(error))
    return Kind.DEVICE if broken else Kind.CASE


def reason_of(error: BaseException) -> str:
    """An error as one line, with its type where the text alone says nothing.

    Example:
        >>> reason_of(ValueError("expected a, got b")), reason_of(KeyError("liver")), reason_of(AssertionError())
        ('expected a, got b', "KeyError: 'liver'", 'AssertionError')
    """
    text = " ".join(f"{error}".split())[:_LONGEST]
    if not text:
        return type(error).__name__
    return text if isinstance(error, _SPEAKING) else f"{type(error).__name__}: {text}"


def trace_of(error: BaseException) -> str:
    """The traceback of an error that nobody worded, empty for the others."""
    if isinstance(error, _WORDED) or kind_of(error) is Kind.MEMORY:
        return ""
    return "".join(traceback.format_exception(error))


def exit_reason(code: int | None) -> str:
    """How a process ended.

    Example:
        >>> exit_reason(-9)
        'killed by SIGKILL, as a system short of memory does'
        >>> exit_reason(3)
        'it ended with exit code 3'
    """
    if code is None:
        return "it is gone"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", as a system short of memory does" if name == "SIGKILL" else "")


class Tracebacks:
    """The file of tracebacks of a run, made with the first.

    Args:
        folder: ``results/<dataset>/records``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ERRORS
        self.count = 0
        self._seen: set[str] = set()

    def keep(self, what: str, trace: str) -> None:
        """Append a traceback; the same one is kept once, and a disk that takes none costs no run."""
        if not trace:
            return
        self.count += 1
        if trace in self._seen:
            return
        self._seen.add(trace)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp}  {what}\n{trace}\n")


def require_folder(out: Path, *, option: str = "--out") -> None:
    """Refuse a folder of results that cannot be made or written, before anything is loaded or computed.

    Raises:
        UsageError: a file stands at it or above it, or the file system grants no writing there.
    """
    there = next((place for place in (out, *out.absolute().parents) if place.exists()), Path("/"))
    if not there.is_dir():
        raise UsageError(f"expected {option} as a folder, found a file at {there}; give another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"expected {option} in a folder that can be written, found {there} without permission; give another {option}"
        )


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Around every write of results: what the disk or another run refuses ends the run in one line.

    Raises:
        UnfinishedError: whatever records or file system said.
    """
    try:
        yield
    except RecordsError as error:
        raise UnfinishedError(str(error)) from error
    except OSError as error:
        found = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        raise UnfinishedError(
            f"expected to write results to {folder}, found: {found}{where}; what is finished is kept: make room or give "
            "another --out, then the same command continues"
        ) from error
