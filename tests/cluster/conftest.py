"""A toy dataset, a network and attacks that take no time, and real workers: processes, or Dask on the loopback address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS

LIGHT = '''
"""What a user brings: a network, an attack, and attacks that go wrong."""
import os, signal, time
from dataclasses import dataclass
import torch
from robustvox.attacks import Attack

def net(num_classes):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, num_classes, 3, padding=1)

@dataclass(frozen=True, kw_only=True)
class Nudge(Attack):
    amount: float = 4 / 255
    pause: float = 0.0

    @property
    def radius(self):
        return self.amount

    def perturb(self, task):
        time.sleep(self.pause)
        return (task.images - self.amount).clamp(0, 1)

@dataclass(frozen=True, kw_only=True)
class Deadly(Nudge):
    """Kills its process on the case that is 19 voxels wide."""

    def perturb(self, task):
        if task.images.shape[2] == 19:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().perturb(task)

@dataclass(frozen=True, kw_only=True)
class Greedy(Nudge):
    """Takes memory until somebody objects, on the case that is 19 voxels wide."""

    def perturb(self, task):
        held = []
        while task.images.shape[2] == 19:
            held.append(torch.ones(2**24))
        return super().perturb(task)

@dataclass(frozen=True, kw_only=True)
class Raises(Nudge):
    """Raises what it is told to."""

    error: str = "KeyError"

    def perturb(self, task):
        import builtins

        raise getattr(builtins, self.error)("liver")
'''


def in_time(what: Callable[[], object], seconds: float, problem: str) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, problem
        time.sleep(0.05)


class Light:
    """The command line on a toy folder with what ``light.py`` has; a case takes milliseconds."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        (root / "light.py").write_text(LIGHT)

    @property
    def environment(self) -> dict[str, str]:
        """Of processes that shall know the module ``light``."""
        paths = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def arguments(self, out: str, *more: str, attacks: tuple[str, ...] = ("Nudge",)) -> list[str]:
        named = [word for attack in attacks for word in ("--attack", f"light:{attack}")]
        return [
            *("run", "--no-report", "--model", "light:net", "--untrained", "--roi-size", "16", *named),
            *(
                "--dataset",
                str(self.folder),
                "--split",
                "all",
                "--cases",
                "all",
                "--out",
                str(self.root / out),
            ),
            *more,
        ]

    def __call__(self, out: str, *more: str, attacks: tuple[str, ...] = ("Nudge",)) -> int:
        return main(self.arguments(out, *more, attacks=attacks))

    def start(self, out: str, *more: str, attacks: tuple[str, ...] = ("Nudge",)) -> subprocess.Popen[str]:
        """The command in a process of its own, as a person starts it."""
        command = [sys.executable, "-m", "robustvox.benchmark", *self.arguments(out, *more, attacks=attacks)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def records(self, out: str):
        return load_records(self.root / out / "toy" / "records")

    def wait_for_rows(self, out: str, count: int, seconds: float = 300) -> None:
        """Until so many units are recorded."""
        files = self.root / out / "toy" / "records"
        rows = lambda: sum(f.read_bytes().count(b'"kind":"unit"') for f in files.glob("*/*/*.jsonl"))  # noqa: E731
        in_time(lambda: rows() >= count, seconds, f"no {count} units after {seconds} s")

    def assert_same(self, one: str, other: str) -> None:
        """Two folders of results have the same tables, but for what a clock measured, and every unit once."""
        tables = [
            pd.read_csv(self.root / out / "toy" / "white_box.csv", keep_default_na=False).drop(
                columns=list(MEASURED_COLUMNS)
            )
            for out in (one, other)
        ]
        pd.testing.assert_frame_equal(*tables)
        units = [sorted(self.records(out).costs["unit"]) for out in (one, other)]
        assert units[0] == units[1]


@pytest.fixture
def light(tmp_path, msd_folder, monkeypatch) -> Iterator[Light]:
    """Here and in workers one thread computes, so that both give the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    )
    yield Light(tmp_path, msd_folder(3))
    torch.set_num_threads(before)
    sys.modules.pop("light", None)


class DaskProcesses:
    """A scheduler and workers in processes of their own; :meth:`kill` is not asked nicely."""

    def __init__(self, environment: dict[str, str]) -> None:
        pytest.importorskip("distributed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self._environment = f"tcp://127.0.0.1:{port}", environment
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("scheduler", "dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show")

    def _start(self, name: str, program: str, *words: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--no-dashboard"]
        self.processes[name] = subprocess.Popen(
            command,
            env=environment or self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add_worker(self, name: str, *words: str, environment: dict[str, str] | None = None) -> None:
        """One process with one thread; with ``--nanny`` among the words it is started again when it dies."""
        nanny = () if "--nanny" in words else ("--no-nanny",)
        self._start(
            name, "dask_worker", self.address, "--nthreads", "1", "--nworkers", "1", "--name", name, *nanny, *words,
            environment=environment,
        )  # fmt: skip

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)


@pytest.fixture
def dask_processes(light) -> Iterator[DaskProcesses]:
    processes = DaskProcesses(light.environment)
    yield processes
    processes.close()
