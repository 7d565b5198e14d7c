"""Memory of the host: how much can still be had, and an allocator that keeps what it has."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's ``mallopt``."""

_LARGEST_KEPT = 1 << 30
"""Bytes of a block that still comes from the heap and stays there when it is freed. With 256 MiB swin_unetr in ``paper`` size
was a tenth slower."""

SWITCH = "ROBUSTVOX_KEEP_MEMORY"
"""Variable that switches it off with ``0``, ``no``, ``off`` or ``false``."""

SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
"""Variables of glibc by which a user settles it; ``GLIBC_TUNABLES`` with ``malloc`` in it is another."""


_keeping = False  # whether glibc took the settings


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors. True where glibc took the settings; on Linux only.

    It serves the main thread: what other threads free above some MiB goes back as before.

    glibc asks the system for every large block anew and gives it back at once, and the system fills it with zeros page
    by page: a third to nearly a half of the time of a forward and gradient in ``paper`` size on a CPU. Values stay,
    addresses move. The process needs up to a third more memory at its peak, because freed blocks do not always fit the
    next ones, and holds it until it ends (``tests/performance/host_memory.py``).

    The command line and its workers call this when they start. Who computes in Python or a notebook may do so too, once
    and before anything large. Nothing happens with ``ROBUSTVOX_KEEP_MEMORY=0`` in the environment, or where that
    settles glibc's allocator itself (:data:`SETTINGS`).

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    global _keeping
    libc = _libc()
    off = os.environ.get(SWITCH, "").strip().lower() in ("0", "no", "off", "false")
    settled = any(name in os.environ for name in SETTINGS) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if libc is None or off or settled:
        return False
    # Older ones refuse a threshold above 32 MiB: there no block is asked of the system by itself, however large.
    kept = libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT) or libc.mallopt(_MMAP_MAX, 0)
    _keeping = bool(kept and libc.mallopt(_TRIM_THRESHOLD, -1))
    return _keeping


def host_bytes() -> int:
    """Memory of the host, or of the control group this process is confined to, that can be had; 0 where nobody tells.

    What :func:`keep_freed_memory` holds free is counted, up to as much as is free besides: it lies in pieces.

    Example:
        >>> host_bytes() >= 0
        True
    """
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    if not limits:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if not limits:
        return 0
    for most, used in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(most.read_text()) - int(used.read_text()))
    free = max(0, min(limits))
    return free + min(free, _kept_bytes())


def _control_groups() -> Iterator[tuple[Path, Path]]:
    """Files with the limit and the use of this process's memory, version 2 and version 1."""
    root = Path("/sys/fs/cgroup")
    own = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.split("::")[1] for line in lines if line.startswith("0::")), "")
    for folder in {root, root / own.lstrip("/")}:
        yield folder / "memory.max", folder / "memory.current"
    yield root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"


class _Account(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _kept_bytes() -> int:
    """Resident bytes that the allocator keeps and nobody uses; 0 where it does not tell."""
    libc = _libc()
    if not _keeping or libc is None or not hasattr(libc, "mallinfo2"):  # new in glibc 2.33
        return 0
    account = libc.mallinfo2()
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
    # What was never touched is free memory of the host already.
    return max(0, min(int(account.fordblks), resident - int(account.uordblks) - int(account.hblkhd)))


@functools.lru_cache(maxsize=1)
def _libc() -> Any:
    """The C library of this process if it is glibc."""
    try:
        known = os.confstr("CS_GNU_LIBC_VERSION")
        libc: Any = ctypes.CDLL(None)
    except (AttributeError, ValueError, OSError):  # another system, or another library
        return None
    if not known or not hasattr(libc, "mallopt"):
        return None
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _Account
    return libc
