"""The console of the commands, and what it shows while something goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as _escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from ...specs.durations import duration
from ...specs.names import printable

if TYPE_CHECKING:
    from ...harness.outlook import Outlook

LOG_SECONDS = 60.0
"""Between two lines about the progress where there is no terminal."""

_LOOK_SECONDS = 0.5  # between two looks whether a run is a long one


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


class _Left(ProgressColumn):
    """The time left by the passes of the attacks."""

    def __init__(self, outlook: Outlook) -> None:
        super().__init__()
        self._outlook = outlook

    def render(self, task: Task) -> Text:  # noqa: ARG002
        left = self._outlook.left()
        return Text("-" if left is None else duration(left), "cyan")


class _Bar(Progress):
    """Two lines: the bar, and below it what is in work, asked at every drawing. Neither is wider than the terminal."""

    def __init__(
        self, state: Callable[[], str], doing: Callable[[], str], outlook: Outlook | None, **settings: Any
    ) -> None:
        self._state, self._doing, self._outlook = state, doing, outlook
        super().__init__(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn() if outlook is None else _Left(outlook),
            **settings,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """As rich asks for them whenever it draws."""
        for task in self.tasks:
            if self._outlook is not None and task.total is not None:
                task.completed = min(self._outlook.tally.done + self._outlook.share(), task.total)
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
        'val_000: cospgd:eps=8/..et, step 3 of 20'
    """
    if len(text) <= width:
        return text
    tail = min(16, width // 2)
    return f"{text[: max(width - tail - 2, 0)]}..{text[len(text) - tail :]}"[:width]


@contextmanager
def progress(
    title: str,
    total: int,
    state: Callable[[], str] = str,
    doing: Callable[[], str] = str,
    *,
    outlook: Outlook | None = None,
    quiet: bool = False,
) -> Iterator[Progress]:
    """A bar with the time left on stderr; a line a minute where stderr is not a terminal, such as a log file.

    Args:
        title: what goes on.
        total: steps of it.
        state: tells where it stands at any moment.
        doing: tells what is in work at any moment, such as the step of an attack.
        outlook: tells how long it takes, and warns of a long run.
        quiet: neither bar nor lines.
    """
    console = make_console(stderr=True)
    bar = _Bar(state, doing, outlook, console=console, disable=quiet or not console.is_terminal)
    done = threading.Event()
    with bar:
        bar.add_task(escape(title), total=total)
        watched = _Watched(bar, console, state, doing, outlook)
        log = threading.Thread(target=watched.run, args=(done,), daemon=True)
        if not quiet:
            log.start()
        try:
            yield bar
        finally:
            done.set()
            if log.is_alive():
                log.join()


@dataclass(frozen=True)
class _Watched:
    """What is said beside the bar: a line a minute where there is none, and once that a run is a long one."""

    bar: Progress
    console: Console
    state: Callable[[], str]
    doing: Callable[[], str]
    outlook: Outlook | None

    def run(self, done: threading.Event) -> None:
        due = time.monotonic() + LOG_SECONDS
        while not done.wait(min(LOG_SECONDS, _LOOK_SECONDS)):
            warning = self.outlook.warning() if self.outlook is not None else ""
            if warning:
                self.console.print(escape(warning), style="yellow", soft_wrap=True)
            if time.monotonic() >= due and not self.console.is_terminal:
                due += LOG_SECONDS
                self._tell()

    def _tell(self) -> None:
        now, left = self.doing(), self.outlook.left() if self.outlook is not None else None
        line = progress_line(self.bar.tasks[0], left=left)
        parts = line, self.state(), f"now {escape(now)}" if now else ""
        self.console.print(", ".join(filter(None, parts)), soft_wrap=True)


def progress_line(task: Task, now: float | None = None, left: float | None = None) -> str:
    """Where a run stands and when it will end, for a log.

    Args:
        task: its progress.
        now: seconds since the epoch; default the clock.
        left: seconds until the end; by default what is left takes what was done took.
    """
    moment = time.time() if now is None else now
    elapsed, stamp = task.elapsed or 0.0, "%Y-%m-%d %H:%M"
    line = f"{time.strftime(stamp, time.localtime(moment))}  {task.completed:.4g} of {task.total:.4g}"
    line += f" in {elapsed / 60:.0f} min"
    if left is None and task.completed and task.total:
        left = elapsed * (task.total - task.completed) / task.completed
    if left is not None:
        end = moment + left
        line += f", {duration(end - moment)} left, ends about {time.strftime(stamp, time.localtime(end))}"
    return f"{line}; {task.description}"
