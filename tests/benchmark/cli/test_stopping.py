"""Ctrl-C at any moment is one line: where it stopped, and the command that goes on."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustvox.benchmark.cli import main, reported
from robustvox.benchmark.cli.commands import check as checking
from robustvox.benchmark.cli.commands import run as running
from robustvox.benchmark.cli.commands import train as training
from robustvox.benchmark.cli.stopping import Stopped, stopping
from robustvox.benchmark.harness.cluster import Tally
from robustvox.benchmark.records.outcomes import load_outcomes

pytestmark = pytest.mark.usefixtures("hears_ctrl_c")

TYPED = ["--model", "unet", "--out", "my runs", "--split", "all"]


def line(capsys) -> str:
    (only,) = capsys.readouterr().err.splitlines()
    return only


def interrupt(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGINT)


def test_who_stops_a_run_can_paste_what_goes_on(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/robustvox"])
    tally = Tally(8, done=3)
    tally.doing = lambda: "val_000: pgd on unet, step 3 of 20"

    def call() -> None:
        with stopping(lambda: running._whereabouts(tally)):
            interrupt()

    assert reported(call, TYPED) == 130
    where, kept, command = line(capsys).split("; ")
    assert where == "stopped after 3 of 8 volumes, in val_000: pgd on unet, step 3 of 20"
    assert kept == "what is finished is kept"
    assert shlex.split(command.removeprefix("to go on: ")) == ["robustvox", *TYPED]


def test_the_innermost_place_is_told_and_the_run_of_a_sweep_before_it() -> None:
    with (
        pytest.raises(Stopped, match="^in run 2 of 3, after 1 of 4$"),
        stopping("somewhere", of="run 2 of 3"),
        stopping("after 1 of 4"),
    ):
        interrupt()
    with pytest.raises(Stopped, match="^in run 2 of 3$"), stopping("", of="run 2 of 3"):
        interrupt()


def test_a_run_is_stopped_at_any_moment_and_goes_on(toy, monkeypatch, capsys) -> None:
    asked = ("--attack", "gn", "--cases", "first:1")
    moments = {
        "json_rows": (signal.SIGINT, "interrupted; "),
        "build_plan": (signal.SIGTERM, "stopped before anything was computed; "),
        "execute": (signal.SIGTERM, "stopped after 0 of 2 volumes; "),
        "write": (signal.SIGINT, "stopped after the last volume, while tables and report were written; "),
    }
    for where, (number, said) in moments.items():
        with monkeypatch.context() as patched:
            patched.setattr(running, where, lambda *_, number=number, **__: signal.raise_signal(number))
            assert toy(*asked) == 130
        assert line(capsys).startswith(said)
    assert toy(*asked) == 0
    assert "0 computed, 2 already recorded" in capsys.readouterr().out  # before the tables were written


def test_checks_are_kept_as_they_come(toy, monkeypatch, capsys) -> None:
    found = checking.results

    def stopped(*arguments):
        every = found(*arguments)
        yield next(every)
        interrupt()

    monkeypatch.setattr(checking, "results", stopped)
    out = toy.root / "results"
    arguments = toy.arguments("--attack", "gn", "--only", "C1,C9")
    assert main(["check", *arguments]) == 130
    assert line(capsys).startswith("stopped after 1 of 2 checks, in unet, gn:std=8/255: C1 ")
    assert len(load_outcomes(out / "toy" / "checks")) == 1


def test_a_training_tells_its_step(tmp_path, monkeypatch, capsys) -> None:
    def train(*_: object, on_step, **__: object) -> None:
        on_step(training.Progress(7, 9, 0.5, 1.0))
        interrupt()

    monkeypatch.setattr(training, "train", train)
    assert (
        main(["train", "--model", "unet", "--steps", "9", "--checkpoint", str(tmp_path / "u.safetensors")])
        == 130
    )
    assert line(capsys).startswith(
        "stopped after step 7 of 9; at most the last 20, or the last minute, are done again; "
    )


def test_who_reads_no_more_is_not_told_and_a_full_output_is_one_line(capsys) -> None:
    def gone() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def other() -> None:
        raise UnicodeError("a mistake")

    with open(os.devnull, "w") as nowhere, pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", nowhere)
        assert reported(gone) == 141
    assert capsys.readouterr().err == ""
    assert reported(full) == 3
    assert "found: No space left on device; what is finished is kept" in line(capsys)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("robustvox.benchmark.cli.keep_mistake", str)
        assert reported(other) == 70


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_script_hears_an_interruption_while_it_imports(tmp_path, number) -> None:
    """The first heavy import waits, as on a slow disk."""
    (tmp_path / "typer.py").write_text("import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n")
    call = "from robustvox.benchmark.__main__ import console_script; console_script()"
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    script = subprocess.Popen(
        [sys.executable, "-c", call], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    begun = time.monotonic()
    while not Path(tmp_path, "here").exists() and time.monotonic() - begun < 60:
        time.sleep(0.02)
    script.send_signal(number)
    _, said = script.communicate(timeout=60)
    assert (script.returncode, said) == (130, "interrupted before anything was computed\n")
