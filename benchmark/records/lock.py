"""One writer per folder: a lock that says who has it and since when, and that dies with its owner.

The lock is the system's (``flock``), so that it is gone when its process is, however that ended. Its file ``.lock`` in
the folder only tells about the owner. Where a file system has no such locks the file is the lock: its owner touches it,
and it counts as left behind when its process is gone, or when nobody touched it for :data:`STALE_S` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .unit import RecordsError

NAME = ".lock"
BEAT_S = 20.0
STALE_S = 120.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        pid, host: its process.
        since: seconds since the epoch.
    """

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.since))
        minutes = max(0.0, time.time() - self.since) / 60
        age = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
        return f"process {self.pid} on {self.host} since {since} ({age})"


class FolderLock:
    """The right to write into a folder, for one process at a time.

    Args:
        folder: is made when the lock is taken.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = FolderLock(Path(folder))
        ...     lock.acquire()
        ...     held = lock.held
        ...     lock.release()
        ...     held, lock.held, list(Path(folder).iterdir())
        (True, False, [])
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._handle: int | None = None
        self._beat: threading.Event | None = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._handle is not None or self._beat is not None

    def acquire(self, wait_s: float = 0.0, tell: Callable[[str], None] | None = None) -> None:
        """Take the lock, at once or after at most ``wait_s`` seconds; ``tell`` hears once who is waited for.

        Raises:
            RecordsError: another process has it.
            OSError: the folder cannot be written.
        """
        end, told = time.monotonic() + wait_s, False
        while not self.held:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._take():
                return
            owner = read_owner(self.path) or "a process that does not say its name"
            if time.monotonic() >= end:
                raise RecordsError(
                    f"{self.folder}: expected to be the only writer, but another run is writing here: {owner}; wait for "
                    "it (--wait SECONDS), or give this one another --out folder"
                )
            if tell is not None and not told:
                tell(f"waiting up to {wait_s:.0f} s for another run to leave {self.folder}: {owner}")
                told = True
            time.sleep(min(_POLL_S, max(0.0, end - time.monotonic())))

    def release(self) -> None:
        """Give it back; nothing where it is not held."""
        if self._beat is not None:
            self._beat.set()
            self._beat = None
            self._remove()
        handle, self._handle = self._handle, None
        if handle is not None:
            self._remove()
            os.close(handle)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _take(self) -> bool:
        try:
            import fcntl
        except ImportError:  # Windows
            return self._take_by_name()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError:  # a file system without locks, as some network mounts
            empty = os.fstat(handle).st_size == 0
            os.close(handle)
            if empty:  # most likely our own, made a moment ago
                self._remove()
            return self._take_by_name()
        try:
            if not _same(handle, self.path):  # removed by its owner while we waited
                os.close(handle)
                return False
            os.ftruncate(handle, 0)
            os.write(handle, _here())
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def _take_by_name(self) -> bool:
        """Take it by making the file, which only one can; what a dead owner left is removed first."""
        if self.path.exists() and _is_left_behind(self.path):
            self._remove()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        os.write(handle, _here())
        os.close(handle)
        self._beat = threading.Event()
        threading.Thread(target=_touch, args=(self.path, self._beat), daemon=True).start()
        return True


def read_owner(path: Path) -> Owner | None:
    """Who wrote a lock file, None where it says nothing."""
    try:
        found = json.loads(path.read_bytes())
        return Owner(int(found["pid"]), str(found["host"])[:80], float(found["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _here() -> bytes:
    owner = Owner(os.getpid(), socket.gethostname(), time.time())
    return (json.dumps(asdict(owner)) + "\n").encode()


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _is_left_behind(path: Path) -> bool:
    owner = read_owner(path)
    try:
        untouched = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if owner is not None and owner.host == socket.gethostname() and not _lives(owner.pid):
        return True
    return untouched > STALE_S


def _lives(pid: int) -> bool:
    if sys.platform == "win32":  # no question without harm there; the age decides
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
