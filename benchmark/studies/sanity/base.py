"""What a check is and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context import Context


PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skip"


Need = Callable[["Context"], str]
"""Why a check does not apply, or nothing."""


@dataclass(frozen=True)
class Finding:
    """What one check saw: a status, the number it rests on, and what the number means."""

    status: str
    number: float | None
    detail: str


@dataclass(frozen=True)
class Check:
    """One rule about a model under an attack.

    Args:
        id: ``C0`` to ``C27``.
        slug: the id in words.
        title: what holds when it passes.
        rule: thresholds in words.
        run: measures; may raise, the runner turns that into a result.
        needs: reasons not to run, asked in order.
        runs: attacks on all cases that it costs beyond what other checks share, for the time left.
        per_query: the same per query of the gradient-free probe.
        flagged: whether a warning or failure belongs into the flags of the tables.
    """

    id: str
    slug: str
    title: str
    rule: str
    run: Callable[[Context], Finding]
    needs: tuple[Need, ...] = ()
    runs: float = 0.1
    per_query: float = 0.0
    flagged: bool = True

    @property
    def number(self) -> int:
        """Position in the list of checks."""
        return int(self.id[1:])


@dataclass(frozen=True)
class Result:
    """The outcome of one check.

    Attributes:
        id, slug, title, rule: those of the :class:`Check`.
        status: ``pass``, ``warn``, ``fail`` or ``skip``.
        number: what was compared with the rule, None where nothing was measured.
        detail: what the number means here, or why the check was skipped or could not be computed.
        flag: short form for the tables, ``C8:fail``; empty unless it warns or fails.
    """

    id: str
    slug: str
    title: str
    status: str
    number: float | None
    rule: str
    detail: str
    flag: str


def check(
    id: str,
    slug: str,
    title: str,
    rule: str,
    *,
    needs: tuple[Need, ...] = (),
    runs: float = 0.1,
    per_query: float = 0.0,
    flagged: bool = True,
) -> Callable[[Callable[[Context], Finding]], Check]:
    """Decorator that makes a :class:`Check` of a function."""

    def wrap(run: Callable[[Context], Finding]) -> Check:
        return Check(id, slug, title, rule, run, needs, runs, per_query, flagged)

    return wrap


def grade(value: float, warn: float, fail: float) -> str:
    """``pass`` up to ``warn``, ``warn`` up to ``fail``, ``fail`` above or when nothing could be compared.

    Example:
        >>> grade(0.004, 0.005, 0.02), grade(0.01, 0.005, 0.02), grade(float("nan"), 0.005, 0.02)
        ('pass', 'warn', 'fail')
    """
    if value <= warn:
        return PASS
    return WARN if value <= fail else FAIL
