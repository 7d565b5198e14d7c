"""The console of the commands, and what it shows while something goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PIPE_WIDTH = 180
"""A table in a pipe or a log is not cut at 80 columns."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that is wide enough when nobody's terminal limits it."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """A bar with the time left on stderr; silent when stderr is not a terminal."""
    console = make_console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        bar.add_task(title, total=total)
        yield bar
