"""How long a run still takes, by the passes of its attacks, from the first step of the first one."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..craft.named import NamedAttack
from ..craft.passes import most_passes
from ..plan.plan import Job, Plan
from ..specs.durations import duration
from .cluster import Tally

LONG_SECONDS = 600.0
"""A run that takes longer says so as soon as it is known."""

_SETTLED_SECONDS = 2.0  # of an attack, before its steps tell the pace


def passes_of(attack: NamedAttack) -> int:
    """The most passes of an attack on one volume, see :func:`~robustvox.benchmark.craft.passes.most_passes`."""
    return most_passes(attack.attack)


class Outlook:
    """Where a run stands, in passes rather than in jobs: a PGD of 100 steps weighs what a hundred FGSM weigh.

    Args:
        plan: what is crossed.
        clock: seconds.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._weights = {attack.spec: float(passes_of(attack)) for attack in plan.attacks}
        jobs = list(plan.jobs())
        self.tally = Tally(len(jobs))
        self._total = sum(map(self._weight, jobs))
        self._done = 0.0
        self._attacked = self._told = False
        self._over = ""  # what was in work when the last job ended: it is counted already

    def finish(self, job: Job, *, computed: bool) -> None:
        """A job is done; what was recorded already takes no time and leaves the sum."""
        self._over = self.tally.doing()
        if computed:
            self._done += self._weight(job)
            self._attacked = self._attacked or job.attack is not None
        else:
            self._total -= self._weight(job)

    def left(self) -> float | None:
        """Seconds until the end; None before an attack made a step."""
        elapsed = self._clock() - self._start
        done = self._done + self.share() * self._weights.get(self.tally.attack(), 0.0)
        settled = self._attacked or (self.share() > 0 and elapsed >= _SETTLED_SECONDS)
        if not settled or done <= 0:
            return None
        return max(elapsed * (self._total - done) / done, 0.0)

    def warning(self) -> str:
        """Said once, by a run of more than ten minutes; else empty."""
        left = self.left()
        if left is None or self._told:
            return ""
        self._told = True
        if left < LONG_SECONDS:
            return ""
        return (
            f"this run takes about {duration(left)} more, less what is recorded already; Ctrl-C stops it and the same "
            "command goes on"
        )

    def share(self) -> float:
        """How far the attack in work is, 0 to 1."""
        return 0.0 if self.tally.doing() == self._over else self.tally.share()

    def _weight(self, job: Job) -> float:
        """Passes of a job: those of its attack, and one per model that is scored."""
        return len(job.targets) + (self._weights[job.attack.spec] if job.attack else 0.0)
