"""A log file shows where a run stands and when it will end."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from robustvox.benchmark.cli.commands import console
from robustvox.benchmark.harness.cluster import Tally


def test_a_line_at_intervals_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.05)
    with console.progress("phantom: 4 cases", 8) as bar:
        bar.update(bar.task_ids[0], advance=2, description="phantom val_000 pgd on unet")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    line = rf"{stamp}  2 of 8 in 0 min, \d\.\d s left, ends about {stamp}; phantom val_000 pgd on unet"
    assert re.fullmatch(line, lines[-1])
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # nothing after the end


def test_the_line_says_what_runs_and_what_is_in_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.05)
    tally = Tally(8, done=0, running=2, waiting=6)
    tally.doing = lambda: "[b]val_000[/b] and 1 more: pgd:eps=8/255 on unet, step 3 of 20"
    with console.progress("phantom: 4 cases", 8, lambda: str(tally), lambda: tally.doing()):
        time.sleep(0.3)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "0 of 8 in 0 min" in line
    assert "2 running, 6 waiting, 0 lost" in line
    assert line.endswith("now [b]val_000[/b] and 1 more: pgd:eps=8/255 on unet, step 3 of 20")


def test_the_end_follows_from_the_pace() -> None:
    with console.progress("x", 10) as bar:
        task = bar.tasks[0]
        bar.update(bar.task_ids[0], advance=4)
        task.start_time, task.finished_time, task.stop_time = 0.0, None, 7200.0
        text = console.progress_line(task, now=0.0)
        assert "4 of 10 in 120 min, 3 h 0 min left, ends about" in text
        assert time.strftime("%Y-%m-%d %H:%M", time.localtime(3 * 3600)) in text


def test_a_short_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("x", 1):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_bar_names_what_is_in_work_and_fits(
    width: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    terminal = Console(file=file, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "make_console", lambda **_: terminal)
    tally, steps = Tally(8, running=1, waiting=7), iter(range(1, 10_000))
    tally.doing = lambda: f"val_000: pgd:eps=8/255 on unet, step {next(steps)} of 9999"
    with console.progress("phantom: 4 cases", 8, lambda: str(tally), lambda: tally.doing()) as bar:
        time.sleep(0.3)
        bar.refresh()
    file.flush()
    drawn = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", raw.getvalue().decode(encoding)).replace("\r", "\n")
    assert all(len(line) <= width for line in drawn.splitlines())
    assert "val_000: pgd:eps" in drawn
    seen = {int(found) for found in re.findall(r"step (\d+)", drawn)}
    assert len(seen) >= 2  # it moves inside one attack
