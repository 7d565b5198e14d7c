"""The console of the commands, and what it shows while something goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as _escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from ...specs.durations import duration
from ...specs.names import printable

LOG_SECONDS = 60.0
"""Between two lines about the progress where there is no terminal."""


PIPE_WIDTH = 180
"""A table in a pipe or a log is not cut at 80 columns."""


class SafeConsole(Console):
    """A console to which no name can send a code: what is drawn loses control codes, whoever forgot to take them out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with every piece of text on its way through :func:`~...specs.names.printable`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_drawn(segment.text), segment.style)


def _drawn(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def escape(text: object) -> str:
    """Text of somebody else inside rich's markup: one line, no codes, no tags."""
    return _escape(printable(text))


def say(text: object, *, err: bool = False) -> None:
    """A line to the terminal; line breaks inside it are ours, codes are nobody's."""
    typer.echo(_drawn(str(text)), err=err)


def make_console(*, stderr: bool = False) -> Console:
    """A console that is wide enough when nobody's terminal limits it; `:bomb:` in a name stays what it is."""
    console = SafeConsole(stderr=stderr, highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return SafeConsole(stderr=stderr, highlight=False, emoji=False, width=PIPE_WIDTH)


class _Bar(Progress):
    """Two lines: the bar, and below it what is in work, asked at every drawing. Neither is wider than the terminal."""

    def __init__(self, state: Callable[[], str], doing: Callable[[], str], **settings: Any) -> None:
        self._state, self._doing = state, doing
        super().__init__(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            **settings,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """As rich asks for them whenever it draws."""
        yield from super().get_renderables()
        for task in self.tasks:
            now = printable(self._doing()) or Text.from_markup(task.description).plain
            said = f"  ({printable(self._state())})"
            width = self.console.width
            line = Text(fitted(now, width))
            if said != "  ()" and cell_len(now + said) <= width:
                line.append(said, "dim")
            line.truncate(width, overflow="crop")
            yield line


def fitted(text: str, width: int) -> str:
    """A text of at most so many letters, cut in its middle: the end of what is in work tells the step.

    Example:
        >>> fitted("val_000: cospgd:eps=8/255 on unet, step 3 of 20", 40)
        'val_000: cospgd:eps=8/..t, step 3 of 20'
    """
    if len(text) <= width:
        return text
    tail = min(16, width // 2)
    return f"{text[: max(width - tail - 2, 0)]}..{text[len(text) - tail :]}"[:width]


@contextmanager
def progress(
    title: str, total: int, state: Callable[[], str] = str, doing: Callable[[], str] = str
) -> Iterator[Progress]:
    """A bar with the time left on stderr; a line a minute where stderr is not a terminal, such as a log file.

    Args:
        title: what goes on.
        total: steps of it.
        state: tells where it stands at any moment.
        doing: tells what is in work at any moment, such as the step of an attack.
    """
    console = make_console(stderr=True)
    bar = _Bar(state, doing, console=console, disable=not console.is_terminal)
    done = threading.Event()
    with bar:
        bar.add_task(escape(title), total=total)
        log = threading.Thread(target=_log, args=(bar, console, done, state, doing), daemon=True)
        if not console.is_terminal:
            log.start()
        try:
            yield bar
        finally:
            done.set()
            if log.is_alive():
                log.join()


def _log(
    bar: Progress,
    console: Console,
    done: threading.Event,
    state: Callable[[], str],
    doing: Callable[[], str],
) -> None:
    while not done.wait(LOG_SECONDS):
        now = doing()
        parts = progress_line(bar.tasks[0]), state(), f"now {escape(now)}" if now else ""
        console.print(", ".join(filter(None, parts)), soft_wrap=True)


def progress_line(task: Task, now: float | None = None) -> str:
    """Where a run stands and when it will end, for a log.

    Args:
        task: its progress.
        now: seconds since the epoch; default the clock.
    """
    moment = time.time() if now is None else now
    elapsed, stamp = task.elapsed or 0.0, "%Y-%m-%d %H:%M"
    line = f"{time.strftime(stamp, time.localtime(moment))}  {task.completed:.4g} of {task.total:.4g}"
    line += f" in {elapsed / 60:.0f} min"
    if task.completed and task.total:
        end = moment + elapsed * (task.total - task.completed) / task.completed
        line += f", {duration(end - moment)} left, ends about {time.strftime(stamp, time.localtime(end))}"
    return f"{line}; {task.description}"
