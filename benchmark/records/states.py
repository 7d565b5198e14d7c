"""Whether a row was checked, in one word: what the tables say beside a number that nobody should believe blindly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..specs.spec import CLEAN
from ..specs.suites import find_suite
from .outcomes import load_outcomes

UNCHECKED, PASSED, WARNED, FAILED = "unchecked", "passed", "warned", "failed"
CONTROL = "control"
"""Of noise and of the clean volume: there is no attack to be checked."""

_WORST = (CONTROL, PASSED, WARNED, UNCHECKED, FAILED)

Found = Mapping[tuple[str, str, str], Mapping[str, str]]
"""``(protocol, surrogate_sha256, attack)`` to what each check found: its flag, or nothing where it passed."""


@dataclass(frozen=True)
class CheckState:
    """What checks say of a row.

    Attributes:
        name: one of :data:`UNCHECKED`, :data:`PASSED`, :data:`WARNED`, :data:`FAILED`, :data:`CONTROL`.
        failed: ids of checks that failed.
        lacking: ids of checks that the suite asks for and nobody computed.
    """

    name: str
    failed: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def load_states(folder: Path) -> Found:
    """What checks found under ``results/<dataset>/checks``; nothing where there is no folder.

    Raises:
        RecordsError: a damaged line.

    Example:
        >>> load_states(Path("no/such/folder"))
        {}
    """
    outcomes: Any = load_outcomes(folder)
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    names = ("protocol", "surrogate_sha256", "attack", "check", "flag")
    for protocol, sha256, attack, check, flag in zip(*(outcomes[n].tolist() for n in names), strict=True):
        found.setdefault((protocol, sha256, attack), {})[check] = flag
    return found


def state_of(found: Found, protocol: str, sha256: str, attack: str, *, control: bool = False) -> CheckState:
    """The state of a row.

    A row of a suite is unchecked until every check that the suite asks for was computed; any other row is what was
    computed for it.

    Args:
        found: of :func:`load_states`.
        protocol, sha256, attack: of the row; whoever is scored.
        control: whether the attack is noise, so that nothing is to be checked.

    Example:
        >>> state_of({("p", "ab", "pgd:eps=1"): {"C2": "", "C8": "C8:fail"}}, "p", "ab", "pgd:eps=1").failed
        ('C8',)
    """
    suite = find_suite(protocol)
    row = suite.row(attack) if suite is not None else None
    if attack == CLEAN or control or (row is not None and row.control):
        return CheckState(CONTROL)
    mine = found.get((protocol, sha256, attack), {})
    lacking = tuple(check for check in (row.checks if row is not None else ()) if check not in mine)
    failed = tuple(check for check, flag in mine.items() if flag.endswith(":fail"))
    if failed:
        return CheckState(FAILED, failed, lacking)
    if lacking or not mine:
        return CheckState(UNCHECKED, (), lacking)
    return CheckState(WARNED if any(mine.values()) else PASSED)


def worst_state(names: Iterable[str]) -> str:
    """Of several rows the word that asks for most care.

    Example:
        >>> worst_state(["passed", "warned", "control"]), worst_state([])
        ('warned', 'unchecked')
    """
    return max(names, key=_WORST.index, default=UNCHECKED)
