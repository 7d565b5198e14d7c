"""What a case, an attack or a model raises is a row, whatever it is; what ends a run is one line."""

from __future__ import annotations

import builtins
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from robustvox.attacks import GN, Attack
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.execute import Status, execute
from robustvox.benchmark.harness.faults import ERRORS, Kind, exit_reason, kind_of, trace_of
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.records import RecordStore, load_records
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import UnfinishedError, UsageError
from robustvox.datasets import CaseError, open_dataset

# Of an exception that takes more than a text, how to make one.
_ODD = {
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    "UnicodeEncodeError": lambda: UnicodeEncodeError("utf-8", "x", 0, 1, "bad"),
    "UnicodeTranslateError": lambda: UnicodeTranslateError("x", 0, 1, "bad"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one")]),
}
EVERY = sorted(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
)


class OwnError(Exception):
    """Of somebody's module."""


@dataclass(frozen=True, kw_only=True)
class Raises(Attack):
    error: str = "KeyError"

    def perturb(self, task):
        raise made(self.error)


def made(name: str) -> BaseException:
    if name in ("OwnError", "SystemExit"):
        return {"OwnError": OwnError, "SystemExit": SystemExit}[name]("liver")
    return _ODD[name]() if name in _ODD else getattr(builtins, name)("liver")


class Broken:
    """The phantom, of which one case raises what nobody foresaw, and another cannot be scored."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def load(self, case):
        if case == "val_001":
            raise KeyError("header")
        return self._inner.load(case)


class Exits(torch.nn.Module):
    """A network whose author thought that it is a program."""

    def forward(self, images):
        sys.exit("no licence found")


def plan(cases=("val_000",), attacks=(), targets=None) -> Plan:
    torch.manual_seed(0)
    model = NamedModel("conv", "ab", torch.nn.Conv3d(1, 8, 1))
    named = [NamedAttack(f"mine:{i}", attack) for i, attack in enumerate(attacks)]
    return Plan(Broken(open_dataset("phantom")), list(cases), [model], [model, *(targets or ())], named,
                PROTOCOLS["robustvox-1"], white_box=targets is None)  # fmt: skip


def test_whatever_an_attack_raises_is_a_row_and_the_run_goes_on(tmp_path):
    names = [*EVERY, "OwnError", "SystemExit"]
    assert len(names) > 45
    attacks = [GN(std=0.1), *(Raises(error=name) for name in names), GN(std=0.2)]
    with RecordStore(tmp_path) as store:
        events = list(execute(Bench(plan(attacks=attacks)), store))
    assert [event.status for event in events] == [
        *[Status.COMPUTED] * 2,
        *[Status.FAILED] * len(names),
        Status.COMPUTED,
    ]
    records = load_records(tmp_path)
    assert len(records.costs) == 3
    assert len(records.failures) == len(names)
    errors = {name: event.error for name, event in zip(names, events[2:], strict=False)}
    assert errors["KeyError"] == "KeyError: 'liver'"
    assert errors["AssertionError"] == "AssertionError: liver"
    assert errors["ValueError"] == "liver"
    assert errors["SystemExit"] == "SystemExit: liver"
    assert all("\n" not in error for error in errors.values())
    # What nobody worded is kept whole, for whoever has to mend it.
    kept = (tmp_path / ERRORS).read_text()
    assert "KeyError: 'liver'" in kept
    assert "in perturb" in kept
    assert "val_000, mine:" in kept
    assert {event.error for event in events if event.failed and not event.traced} <= {
        "liver",
        *errors.values(),
    }
    assert not any(
        event.traced
        for event, name in zip(events[2:], names, strict=False)
        if name in ("OSError", "MemoryError")
    )


def test_whatever_reading_a_case_raises_is_a_row(tmp_path):
    with RecordStore(tmp_path) as store:
        events = list(execute(Bench(plan(("val_000", "val_001", "val_002"), [GN(std=0.1)])), store))
    assert [event.status.value for event in events] == ["computed"] * 2 + ["failed"] * 2 + ["computed"] * 2
    assert {event.error for event in events if event.failed} == {"KeyError: 'header'"}


def test_a_target_that_ends_its_process_fails_alone(tmp_path):
    exits = NamedModel("exits", "cd", Exits())
    with RecordStore(tmp_path) as store:
        events = list(execute(Bench(plan(attacks=[GN(std=0.1)], targets=[exits])), store))
    assert [event.error for event in events] == ["SystemExit: no licence found"] * 2
    records = load_records(tmp_path)
    assert sorted(records.costs["target"]) == ["conv", "conv"]
    assert sorted(records.failures["target"]) == ["exits", "exits"]


def test_ctrl_c_is_nobodys_failure(tmp_path):
    class Interrupted(torch.nn.Module):
        def forward(self, images):
            raise KeyboardInterrupt

    with RecordStore(tmp_path) as store, pytest.raises(KeyboardInterrupt):
        list(
            execute(
                Bench(plan(attacks=[GN(std=0.1)], targets=[NamedModel("stop", "ef", Interrupted())])), store
            )
        )
    assert len(load_records(tmp_path).failures) == 0


def test_a_broken_device_ends_a_run_in_one_process_with_the_way_on(tmp_path):
    class Faulty(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    faulty = NamedModel("faulty", "ef", Faulty())
    with RecordStore(tmp_path) as store, pytest.raises(UnfinishedError, match="--workers 1 continues"):
        list(execute(Bench(plan(("val_000", "val_002"), [GN(std=0.1)], [faulty])), store))
    assert load_records(tmp_path).failures["target"].tolist() == [
        "faulty"
    ]  # the first, and no other was tried


@pytest.mark.parametrize(
    ("error", "kind", "worded"),
    [
        (MemoryError(), Kind.MEMORY, True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), Kind.MEMORY, True),
        (RuntimeError("CUDA error: out of memory"), Kind.MEMORY, True),
        (RuntimeError("CUDA error: device-side assert triggered"), Kind.DEVICE, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Kind.DEVICE, False),
        (RuntimeError("Expected all tensors to be on the same device"), Kind.CASE, False),
        (KeyError("CUDA error"), Kind.CASE, False),
        (CaseError("a", "b", "c", "d"), Kind.CASE, True),
        (UsageError("a"), Kind.CASE, True),
        (FileNotFoundError("a"), Kind.CASE, True),
    ],
)
def test_kinds_of_failures(error, kind, worded):
    assert kind_of(error) is kind
    assert (trace_of(error) == "") == worded


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUSOLVER_STATUS_ALLOC_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
    ],
)
def test_libraries_of_a_card_say_in_their_own_words_that_it_is_full(text):
    assert kind_of(RuntimeError(text)) is Kind.MEMORY
    assert kind_of(ValueError(text)) is Kind.CASE


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm`",
        "CUDA error: unspecified launch failure",
    ],
)
def test_a_device_that_stays_broken_is_not_taken_for_a_full_one(text):
    assert kind_of(RuntimeError(text)) is Kind.DEVICE


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "it is gone"),
        (-11, "killed by SIGSEGV"),
        (1, "it ended with exit code 1"),
        (-250, "killed by signal 250"),
    ],
)
def test_how_a_process_ended(code, text):
    assert exit_reason(code) == text


DISK = """
import sys
from robustvox.benchmark.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_limited(arguments, limit=None, before=()):
    """The command line in a process that may write so many bytes to a file."""

    def restrict():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [*before, sys.executable, "-c", DISK, *arguments],
        capture_output=True, text=True, preexec_fn=restrict, timeout=300, check=False,
    )  # fmt: skip


def one_line(said: str) -> str:
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_line_and_keeps_what_is_finished(toy):
    arguments = toy.arguments("--no-report", "--attack", "gn", "--attack", "uniform")
    full = run_limited(arguments, limit=3000)
    assert full.returncode == 3
    line = one_line(full.stderr)
    assert "expected to write results to" in line
    assert "File too large" in line
    assert "the same command continues" in line
    kept = len(load_records(toy.root / "results" / "toy" / "records").costs)
    assert kept >= 1
    assert main(arguments) == 0
    assert toy("--attack", "gn", "--attack", "uniform", out=toy.root / "other") == 0
    tables = [toy.table(out).drop(columns=list(MEASURED_COLUMNS)) for out in (None, toy.root / "other")]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.slow
def test_a_disk_of_4_mb(toy):
    """A file system of its own, on which a real write fails with no space left."""
    disk = toy.root / "disk"
    disk.mkdir()
    arguments = toy.arguments("--no-report", "--attack", "gn", "--attack", "uniform", out=disk / "results")
    script = (
        f"mount -t tmpfs -o size=4m tmpfs {disk} && head -c $((4 * 1024 * 1024 - 8192)) /dev/zero > {disk}/filler; "
        f'"$@"; code=$?; rm {disk}/filler; "$@"; again=$?; cp -r {disk}/results {toy.root}/copied; exit $((10 * code + again))'
    )
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run(
            [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no right to mount a file system here")
    found = run_limited(arguments, before=[unshare, "-rm", "sh", "-c", script, "sh"])
    assert found.returncode == 30, found.stderr  # first 3, then 0
    assert "No space left on device" in one_line(found.stderr)
    assert toy("--attack", "gn", "--attack", "uniform", out=toy.root / "other") == 0
    tables = [toy.table(toy.root / out).drop(columns=list(MEASURED_COLUMNS)) for out in ("copied", "other")]
    pd.testing.assert_frame_equal(*tables)


def test_a_file_where_the_folder_should_be(toy, capsys):
    (toy.root / "taken").write_text("mine")
    assert toy("--attack", "gn", out=toy.root / "taken") == 3
    assert "expected to write results to" in one_line(capsys.readouterr().err)
    assert (toy.root / "taken").read_text() == "mine"


def test_a_folder_that_cannot_be_written(toy, capsys, monkeypatch):
    """As root nothing is read-only, so that the system's refusal is played where it may not happen."""
    target = toy.root / "results"
    target.mkdir()
    target.chmod(0o500)
    if os.access(target, os.W_OK):
        real = os.open

        def refuse(path, flags, *rest, **options):
            if str(path).startswith(str(target)) and flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(30, "Read-only file system", str(path))
            return real(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refuse)
    assert toy("--attack", "gn") == 3
    line = one_line(capsys.readouterr().err)
    assert "Read-only file system" in line or "Permission denied" in line
    target.chmod(0o700)


def test_two_runs_into_one_folder(toy, capsys):
    """The second refuses before it computes anything, and says whom it met."""
    with RecordStore(toy.root / "results" / "toy" / "records") as store:
        store.lock()
        assert toy("--attack", "gn", "--wait", "0") == 3
        assert f"another run is writing here: process {os.getpid()} on" in one_line(capsys.readouterr().err)
    assert toy("--attack", "gn", "--wait", "0") == 0


def test_a_mistake_of_ours_is_a_line_and_a_file(toy, capsys, monkeypatch, tmp_path):
    def broken(*_: object) -> None:
        raise KeyError("liver")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("robustvox.benchmark.cli.commands.run.build_plan", broken)
    assert toy("--attack", "gn") == 70
    line = one_line(capsys.readouterr().err)
    assert "unexpected KeyError: 'liver'" in line
    assert "in broken" in (tmp_path / "robustvox-errors.log").read_text()
