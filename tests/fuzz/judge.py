"""One input in a process of its own: what became of it, by class."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from .inputs import make_input
from .mutate import CANARY
from .samples import Sample

CPU_SECONDS = 10
"""A reading that takes more hangs; of the processor, so that a busy machine accuses nobody."""

WALL_SECONDS = 60
"""A reading that waits this long for something that never comes hangs too."""

MEMORY = 4 << 30

GOOD = ("accepted", "failed row", "refused")
BAD = ("traceback", "hang", "memory", "executed", "silently wrong", "terminal", "outside")

CONTROL = (
    "".join(chr(c) for c in (*range(9), *range(11, 32), *range(127, 160)))
    + "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"
)
"""What no line on a terminal may hold: codes that move the cursor, and marks that turn the writing around."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Args:
        format, seed, how: which input.
        kind: among ``GOOD`` or ``BAD``.
        detail: first line of what was said, or what is wrong.
        seconds: of the processor.
        megabytes: at the most.
    """

    format: str
    seed: int
    how: str
    kind: str
    detail: str
    seconds: float
    megabytes: float


def judge(sample: Sample, seed: int) -> Outcome:
    """Make the input of a seed and read it."""
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder = work / "input" / "here"
    folder.parent.mkdir()
    try:
        how = make_input(sample, seed, folder)
        before = set(work.rglob("*")) - set(folder.rglob("*"))
        status, said, usage = _run(sample, folder, work)
        kind, detail = _classify(status, said)
        outside = (
            {p for p in work.rglob("*") if folder not in p.parents} - before - {work / "out", work / "err"}
        )
        if any(work.rglob(CANARY)) or Path(CANARY).exists():
            kind, detail = "executed", "the payload ran"
        elif kind in GOOD and outside:
            kind, detail = "outside", f"wrote {sorted(outside)[0].name!r}"
        elif kind in GOOD and usage.ru_maxrss * 1024 > MEMORY:
            kind, detail = "memory", f"{usage.ru_maxrss >> 10} MB"
        seconds = usage.ru_utime + usage.ru_stime
        return Outcome(sample.name, seed, how, kind, detail[:300], round(seconds, 2), usage.ru_maxrss / 1024)
    finally:
        for path in work.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o600)
        shutil.rmtree(work, ignore_errors=True)


def _run(sample: Sample, folder: Path, work: Path) -> tuple[int | str, dict, resource.struct_rusage]:
    """Fork, call, check; the exit code of the process or ``"hang"``, what it reported, and what it used."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        report = _child(sample, folder, work)
        with os.fdopen(write, "w") as stream:
            json.dump(report, stream)
        os._exit(0)
    os.close(write)
    said, deadline = b"", time.monotonic() + WALL_SECONDS
    hung = False
    while True:
        ready, _, _ = select.select([read], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            hung = True
            os.kill(pid, signal.SIGKILL)
            break
        piece = os.read(read, 1 << 16)
        if not piece:
            break
        said += piece
    os.close(read)
    _, status, usage = os.wait4(pid, 0)
    if hung or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return "hang", {}, usage
    return (-os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), json.loads(said or b"{}"), usage


def _child(sample: Sample, folder: Path, work: Path) -> dict:
    """In the fork: the call as the command line makes it, then the oracle."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Room for what is wrongly asked for, so that it is counted and not killed.
    room = pages * os.sysconf("SC_PAGE_SIZE") + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    os.chdir(folder.parent)
    report: dict = {}
    with (
        (work / "out").open("w", errors="backslashreplace") as out,
        (work / "err").open("w", errors="backslashreplace") as err,
    ):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                report["code"] = sample.call(folder)
            except BaseException as error:  # noqa: BLE001 - whatever comes out is what a user would see
                report["error"] = _where(error)
        try:
            if report.get("code") in (0, 1) and "error" not in report:
                report["wrong"] = sample.check(folder) if report["code"] == 0 else ""
        except BaseException as error:  # noqa: BLE001 - the oracle could not read what was accepted
            report["wrong"] = f"accepted, but the independent reader fails: {_where(error)}"
    report["out"] = (work / "out").read_text(errors="replace")[-4000:]
    report["err"] = (work / "err").read_text(errors="replace")[-4000:]
    return report


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/site-packages/" not in f.filename and "tests/fuzz" not in f.filename
    ]
    last = own[-1] if own else frame
    try:
        text = " ".join(str(error).split())[:160]
    except RecursionError:
        text = ""
    return f"{type(error).__name__}: {text} at {Path(last.filename).name}:{last.lineno}"


def _classify(status: int | str, said: dict) -> tuple[str, str]:
    if status == "hang":
        return "hang", f"more than {CPU_SECONDS} s of the processor or {WALL_SECONDS} s of the clock"
    if status != 0 or not said:
        return "traceback", f"killed by signal {status}"
    if "error" in said:
        return "traceback", said["error"]
    shown = said["out"] + said["err"]
    if "Traceback (most recent call last)" in shown:
        return "traceback", shown.strip().splitlines()[-1]
    if any(sign in shown for sign in ("Unable to allocate", "DefaultCPUAllocator", "MemoryError")):
        return "memory", next(line for line in shown.splitlines() if "alloc" in line or "MemoryError" in line)
    if said.get("wrong"):
        return "silently wrong", said["wrong"]
    found = next((c for c in CONTROL if c in shown), None)
    if found is not None:
        return "terminal", f"{found!r} reaches the terminal"
    lines = [line for line in said["err"].splitlines() if line.strip()]
    if said["code"] == 2:
        errors = [line for line in lines if line.startswith("error: ")]
        return (
            ("refused", errors[-1])
            if len(errors) == 1
            else ("traceback", f"{len(errors)} lines of error: {lines[:2]}")
        )
    return ("accepted" if said["code"] == 0 else "failed row"), (lines or [""])[-1]


def warm(sample: Sample, root: Path) -> None:
    """Read the good example here, so that every fork has its imports; a format whose good example fails proves nothing.

    Raises:
        RuntimeError: it is refused, or read wrongly.
    """
    folder = root / "warm" / "here"
    shutil.copytree(sample.folder, folder)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            code = sample.call(folder)
            wrong = sample.check(folder)
        if code == 2 or wrong:
            raise RuntimeError(
                f"{sample.name}: the good example ends with {code}, {wrong}: {out.getvalue()}{err.getvalue()}"
            )
    finally:
        shutil.rmtree(root / "warm")


def silence() -> None:
    """Libraries that log to the terminal would be taken for ours."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
