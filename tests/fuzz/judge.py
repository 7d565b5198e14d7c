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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .inputs import make_input
from .mutate import CANARY
from .oracles import LAST
from .samples import Sample

CPU_SECONDS = 10
"""A reading that takes more hangs; of the processor, so that a busy machine accuses nobody."""

WALL_SECONDS = 180
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


class Reader:
    """A process that reads inputs one after the other; after one that kills it, the next gets a new process.

    Args:
        chosen: the samples it may be asked for.
    """

    def __init__(self, chosen: Sequence[Sample]) -> None:
        self._chosen = {sample.name: sample for sample in chosen}
        self._pid = 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def judge(self, sample: Sample, seed: int) -> Outcome:
        """Make the input of a seed, have it read, and say what became of it."""
        work = Path(tempfile.mkdtemp(prefix="fuzz-"))
        folder = work / "input" / "here"
        folder.parent.mkdir()
        try:
            how = make_input(sample, seed, folder)
            said = self._ask({"sample": sample.name, "folder": str(folder), "work": str(work)})
            kind, detail = _classify(said)
            allowed = {folder.parent, folder, work / "out", work / "err"}
            outside = {p for p in work.rglob("*") if folder not in p.parents} - allowed
            if any(work.rglob(CANARY)) or Path(CANARY).exists():
                kind, detail = "executed", "the payload ran"
            elif kind in GOOD and outside:
                kind, detail = "outside", f"wrote {sorted(outside)[0].name!r}"
            elif kind in GOOD and said["megabytes"] > MEMORY >> 20:
                kind, detail = "memory", f"{said['megabytes']:.0f} MB"
            used = said.get("seconds", CPU_SECONDS), said.get("megabytes", 0.0)
            return Outcome(sample.name, seed, how, kind, detail[:300], *used)
        finally:
            for path in work.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    path.chmod(0o600)
            shutil.rmtree(work, ignore_errors=True)

    def _ask(self, request: dict) -> dict:
        """What the process reports; ``hang`` or ``signal`` where it did not live to."""
        if not self._pid:
            self._start()
        os.write(self._to, json.dumps(request).encode() + b"\n")
        said, deadline = b"", time.monotonic() + WALL_SECONDS
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(self._from, 1 << 16) if ready else b""
            if not ready:
                os.kill(self._pid, signal.SIGKILL)
            if not piece:
                status = self._stop()
                number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                hung = not ready or number == signal.SIGXCPU
                return {"hang": True} if hung else {"signal": number}
            said += piece
        return json.loads(said)

    def _start(self) -> None:
        (here, self._to), (self._from, there) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._to)
            os.close(self._from)
            _serve(self._chosen, here, there)
            os._exit(0)
        os.close(here)
        os.close(there)

    def _stop(self) -> int:
        if not self._pid:
            return 0
        os.close(self._to)
        os.close(self._from)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status


def _serve(chosen: Mapping[str, Sample], requests: int, reports: int) -> None:
    """In the fork: read what is asked for, until nobody asks."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # Room for what is wrongly asked for, so that it is counted and not killed.
    room = pages * os.sysconf("SC_PAGE_SIZE") + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    home = Path.cwd()
    _silence()
    with os.fdopen(requests) as lines:
        for line in lines:
            request = json.loads(line)
            before = _processor()
            resource.setrlimit(resource.RLIMIT_CPU, (int(before) + CPU_SECONDS + 1, resource.RLIM_INFINITY))
            Path("/proc/self/clear_refs").write_text("5")  # forgets the highest use of memory so far
            report = _read(chosen[request["sample"]], Path(request["folder"]), Path(request["work"]))
            high = next(
                text
                for text in Path("/proc/self/status").read_text().splitlines()
                if text.startswith("VmHWM")
            )
            report |= {"seconds": round(_processor() - before, 2), "megabytes": int(high.split()[1]) / 1024}
            os.chdir(home)
            os.write(reports, json.dumps(report).encode() + b"\n")


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _read(sample: Sample, folder: Path, work: Path) -> dict:
    """The call as the command line makes it, then the oracle."""
    os.chdir(folder.parent)
    LAST.clear()
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
            if report.get("code") == 0 and "error" not in report:
                report["wrong"] = sample.check(folder)
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


def _classify(said: dict) -> tuple[str, str]:
    if said.get("hang"):
        return "hang", f"more than {CPU_SECONDS} s of the processor or {WALL_SECONDS} s of the clock"
    if "signal" in said:
        return "traceback", f"killed by signal {said['signal']}"
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


def _silence() -> None:
    """Libraries that log to the terminal would be taken for ours."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
