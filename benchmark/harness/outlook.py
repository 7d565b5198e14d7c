"""How long a run still takes, by the passes of its attacks: before the first step where it can be told, else from it on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from ..craft.named import NamedAttack
from ..craft.passes import most_passes
from ..plan.plan import Job, Plan
from ..records.provenance import read_entries
from ..records.store import RecordStore
from ..specs.durations import duration
from ..specs.names import component
from .cluster import Tally
from .preflight import Place

LONG_SECONDS = 600.0
"""A run that takes longer says so as soon as it is known."""

_SETTLED_SECONDS = 2.0  # of an attack, before its steps tell the pace
_BACKWARD = 2.0  # what a backward pass takes, in forwards

Key = tuple[str, str]
Past = Mapping[tuple[Key, str], float]
"""Seconds of a volume, by the key of the attacked model and the spec of the attack."""

_Kind = tuple[Key | None, str, tuple[Key, ...]]


def passes_of(attack: NamedAttack) -> int:
    """The most passes of an attack on one volume, see :func:`~robustvox.benchmark.craft.passes.most_passes`."""
    return most_passes(attack.attack)


def attack_seconds(passes: float, forward: float) -> float:
    """What so many passes take, half of them backward, where a forward takes ``forward`` seconds.

    Example:
        >>> attack_seconds(40, 0.5)
        30.0
    """
    return passes * forward * (1 + _BACKWARD) / 2


def past_seconds(store: RecordStore, plan: Plan, place: Place) -> Past:
    """How long the attacks of a plan took on its models before: the median of what is recorded of the same hardware.

    Args:
        store: of the records.
        plan: what is asked.
        place: where it will be computed.
    """
    found: dict[tuple[Key, str], list[float]] = {}
    mine: set[str] | None = None
    for surrogate in plan.surrogates:
        for attack in plan.attacks:
            for took in store.took(plan.protocol.name, surrogate.name, attack.spec):
                if (took.surrogate_sha256, took.attack) != (surrogate.sha256, attack.spec):
                    continue
                mine = _runs_at(store, plan.protocol.name, place) if mine is None else mine
                if took.provenance in mine:
                    found.setdefault((surrogate.key, attack.spec), []).append(took.seconds)
    return {asked: median(seconds) for asked, seconds in found.items()}


def _runs_at(store: RecordStore, protocol: str, place: Place) -> set[str]:
    """Ids of the runs that computed on the same kind of device."""
    ids = set()
    for found in read_entries(store.root / component(protocol) / "provenance.jsonl"):
        if isinstance(found, str):
            continue
        extra: Mapping[str, Any] = found[1].model_extra or {}
        device = str((found[1].compute or {}).get("device", "cpu")).partition(":")[0]
        there = device, extra.get("accelerator"), extra.get("threads")
        if there == (place.device, place.accelerator, place.threads):
            ids.add(found[0])
    return ids


class Outlook:
    """Where a run stands, in what its jobs cost rather than in jobs: a PGD of 100 steps weighs what a hundred FGSM weigh.

    A job weighs the seconds that it took before, or its passes by the seconds of a forward of its models, as soon as
    these are known; until then its passes. The pace of what is done tells how long the rest takes.

    Args:
        plan: what is crossed.
        clock: seconds.
        past: what attacks took before, see :func:`past_seconds`.
    """

    def __init__(
        self, plan: Plan, clock: Callable[[], float] = time.monotonic, *, past: Past | None = None
    ) -> None:
        self._clock, self._start, self._past = clock, clock(), past or {}
        self._passes = {attack.spec: float(passes_of(attack)) for attack in plan.attacks}
        self._jobs = Counter(map(_kind, plan.jobs()))
        self.tally = Tally(self._jobs.total())
        self._finished: Counter[_Kind] = Counter()
        self._attacked = self._told = False
        self._over = ""  # what was in work when the last job ended: it is counted already

    def finish(self, job: Job, *, computed: bool) -> None:
        """A job is done; what was recorded already takes no time and leaves the sum."""
        self._over = self.tally.doing()
        if computed:
            self._finished[_kind(job)] += 1
            self._attacked = self._attacked or job.attack is not None
        else:
            self._jobs[_kind(job)] -= 1

    def left(self) -> float | None:
        """Seconds until the end; None while neither a step nor a forward nor a record tells."""
        elapsed, forwards = self._clock() - self._start, self.tally.forwards()
        timed = self._timed(forwards)
        weigh = self._seconds if timed else _passes_alone
        weights = {kind: weigh(self._passes.get(kind[1], 0.0), kind, forwards) for kind in self._jobs}
        total = sum(weights[kind] * many for kind, many in self._jobs.items())
        done = sum(weights[kind] * many for kind, many in self._finished.items())
        now = self._in_work()
        if now is not None:
            scoring = weigh(0.0, (None, "", now[2]), forwards)
            done += self.share() * (weights[now] - scoring)
        settled = self._attacked or (self.share() > 0 and elapsed >= _SETTLED_SECONDS)
        if settled and done > 0:
            return max(elapsed * (total - done) / done, 0.0)
        return max(total - done, 0.0) / max(self.tally.workers, 1) if timed else None

    def warning(self) -> str:
        """Said once, by a run of more than ten minutes; else empty."""
        left = None if self._told else self.left()
        if left is None or self._clock() - self._start + left < LONG_SECONDS:
            return ""
        self._told = True
        return (
            f"this run takes about {duration(left)} more, less what is recorded already; Ctrl-C stops it and the same "
            "command goes on"
        )

    def share(self) -> float:
        """How far the attack in work is, 0 to 1."""
        return 0.0 if self.tally.doing() == self._over else self.tally.share()

    def _in_work(self) -> _Kind | None:
        """The kind of the job in work, an attack; None for none."""
        spec, surrogate = self.tally.attack(), self.tally.surrogate()
        kinds = [kind for kind in self._jobs if kind[1] == spec and kind[0] is not None]
        return next((kind for kind in kinds if kind[0] == surrogate), kinds[0] if kinds else None)

    def _timed(self, forwards: Mapping[Key, float]) -> bool:
        """Whether seconds are known of every attack that is left."""
        attacked = [kind for kind, many in self._jobs.items() if kind[0] is not None and many > 0]
        return bool(attacked) and all(
            (surrogate, spec) in self._past or surrogate in forwards for surrogate, spec, _ in attacked
        )

    def _seconds(self, passes: float, kind: _Kind, forwards: Mapping[Key, float]) -> float:
        surrogate, spec, targets = kind
        usual = median(forwards.values()) if forwards else 0.0
        scoring = sum(forwards.get(target, usual) for target in targets)
        if surrogate is None or not passes:
            return scoring
        past = self._past.get((surrogate, spec))
        return scoring + (attack_seconds(passes, forwards[surrogate]) if past is None else past)


def _kind(job: Job) -> _Kind:
    """What two jobs have in common that cost the same."""
    surrogate = job.surrogate.key if job.surrogate and job.attack else None
    return surrogate, job.attack.spec if job.attack else "", tuple(target.key for target in job.targets)


def _passes_alone(passes: float, kind: _Kind, _forwards: Mapping[Key, float]) -> float:
    """Passes of a job: those of its attack, and one per model that is scored."""
    return len(kind[2]) + passes
