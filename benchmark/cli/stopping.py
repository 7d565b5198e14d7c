"""Ctrl-C and SIGTERM: one line that says where a command stopped and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..specs.program import pasted


class Stopped(KeyboardInterrupt):
    """An interruption that knows where it came: ``after 3 of 8, in val_000: pgd on unet, step 3 of 20``."""


class StoppedCommandError(Exception):
    """The same on its way through Typer, which makes a bare exit code of every KeyboardInterrupt."""


@contextmanager
def stopping(where: Callable[[], str] | str, *, of: str = "") -> Iterator[None]:
    """Whoever interrupts what is done inside hears where it was; the innermost place is told.

    Args:
        where: the place, asked at the interruption.
        of: what stands before the place, also before one that was told further inside, such as the run of a sweep.

    Example:
        >>> try:
        ...     with stopping("before the end", of="run 2 of 3"):
        ...         raise KeyboardInterrupt
        ... except Stopped as stop:
        ...     print(stop)
        in run 2 of 3, before the end
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        place = str(stop) if isinstance(stop, Stopped) else where if isinstance(where, str) else where()
        raise Stopped(", ".join(filter(None, (of and f"in {of}", place)))) from None


def how_to_go_on(place: str, arguments: Sequence[str]) -> str:
    """The line for who stopped a command that was called with these arguments."""
    stopped = f"stopped {place}" if place else "interrupted"
    return f"{stopped}; what is finished is kept; to go on: {pasted(arguments)}"


@contextmanager
def stopped_by_terminate() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends a command as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
