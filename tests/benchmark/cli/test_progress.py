"""A log file shows where a run stands and when it will end."""

from __future__ import annotations

import re
import time

import pytest

from robustvox.benchmark.cli.commands import console


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
    line = rf"{stamp}  2 of 8 in 0 min, \d s left, ends about {stamp}; phantom val_000 pgd on unet"
    assert re.fullmatch(line, lines[-1])
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # nothing after the end


def test_the_end_follows_from_the_pace() -> None:
    with console.progress("x", 10) as bar:
        task = bar.tasks[0]
        bar.update(bar.task_ids[0], advance=4)
        task.start_time, task.finished_time, task.stop_time = 0.0, None, 7200.0
        text = console.progress_line(task, now=0.0)
        assert "4 of 10 in 120 min" in text
        assert time.strftime("%Y-%m-%d %H:%M", time.localtime(3 * 3600)) in text


def test_a_short_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("x", 1):
        pass
    assert capsys.readouterr().err == ""
