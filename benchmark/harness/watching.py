"""Where an evaluation stands, for a bar or a function of the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..plan.plan import Plan
from ..specs.durations import duration
from ..specs.names import printable
from .execute import Event, Status
from .outlook import Outlook


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an evaluation stands.

    Attributes:
        done: volumes that are finished, clean ones and failed ones included.
        total: of the evaluation.
        doing: the case and attack in work and its step, empty before the first.
        seconds_left: by the passes of the attacks; None before a forward was measured.
    """

    done: int
    total: int
    doing: str
    seconds_left: float | None


Listener = Callable[[Standing], object]


class Watched:
    """Counts what is finished and tells it."""

    def __init__(self, plan: Plan, listener: Listener | None) -> None:
        self.outlook, self._listener = Outlook(plan), listener

    def finish(self, event: Event) -> None:
        """A job ended."""
        self.outlook.finish(event.job, computed=event.status is not Status.RECORDED)
        if self._listener is not None:
            self._listener(self.standing())

    def standing(self) -> Standing:
        """As of now."""
        tally = self.outlook.tally
        return Standing(
            done=tally.done, total=tally.jobs, doing=tally.doing(), seconds_left=self.outlook.left()
        )


@contextmanager
def watched(plan: Plan, progress: bool | Listener) -> Iterator[Watched]:
    """What counts the jobs of a plan.

    Args:
        plan: what is crossed.
        progress: True for a bar in a terminal or notebook, or a function that is called with a :class:`Standing` after
            every volume.
    """
    if progress is not True:
        yield Watched(plan, progress if callable(progress) else None)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    counted = Watched(plan, None)

    def drawn() -> Group:
        now = counted.standing()
        left = "" if now.seconds_left is None else f", {duration(now.seconds_left)} left"
        part = min(now.done + counted.outlook.share(), now.total)
        said = Text(f"{now.done}/{now.total}{left}  {printable(now.doing)}", no_wrap=True, overflow="crop")
        return Group(ProgressBar(total=now.total, completed=part, width=40), said)

    with Live(get_renderable=drawn, refresh_per_second=2, transient=False):
        yield counted
