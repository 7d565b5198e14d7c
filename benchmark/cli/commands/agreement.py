"""A recorded unit beside the same unit computed again: every column, and the direction of what is left over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...specs.tolerances import tolerance_of

SURELY = 0.01
"""Chance below which deviations that all point one way are no accident."""

_ABSOLUTE = {"nsd": 0.05, "linf": 1e-4, "ssim": 0.01, "asr_voxel": 0.05, "asr_foreground": 0.05}
_RELATIVE = {"l2": 0.05, "psnr": 0.05}
_HD95_MM, _HD95_SHARE = 3.0, 0.5  # one border voxel can move it far, an invented column moves further
_UNBOUNDED_LINF = 0.3
"""Share by which L-inf of an attack without such a budget may be off: one voxel decides it."""

_LATER = ("asr_voxel", "asr_foreground")
"""Columns that the first records do not have."""

_EXACT = ("forwards", "backwards")
_OF_MACHINE = ("tf32", "bf16")


@dataclass(frozen=True)
class Recorded:
    """What the records say of a unit.

    Attributes:
        classes: class name to ``dice``, ``hd95_mm``, ``nsd`` and ``status``.
        cost: the closing row.
        device: kind of device that it was computed on, ``cpu``.
    """

    classes: Mapping[str, Mapping[str, Any]]
    cost: Mapping[str, Any]
    device: str = "cpu"

    @property
    def dice(self) -> dict[str, float]:
        """Of every class."""
        return {name: row["dice"] for name, row in self.classes.items()}


def columns_apart(
    recorded: Recorded, classes: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]
) -> Iterator[str]:
    """What is recorded otherwise than it comes out now, without the Dice, one phrase each.

    Args:
        recorded: of the unit.
        classes: score rows as computed now.
        cost: closing row as computed now.
    """
    for now in classes:
        then = recorded.classes.get(now["class_name"])
        if then is None:
            continue  # told with the Dice
        where = f" of {now['class_name']}"
        if then["status"] != now["status"]:
            yield f"status {now['status']}{where}, recorded {then['status']}"
        if not _near(then["hd95_mm"], now["hd95_mm"], max(_HD95_MM, _HD95_SHARE * _number(now["hd95_mm"]))):
            yield f"hd95_mm {now['hd95_mm']:.4g}{where}, recorded {then['hd95_mm']:.4g}"
        if not _near(then["nsd"], now["nsd"], _ABSOLUTE["nsd"]):
            yield f"nsd {now['nsd']:.4g}{where}, recorded {then['nsd']:.4g}"
    for name, value in cost.items():
        allowed = _allowed(name, value, str(recorded.cost.get("attack", "")))
        searched = name in _EXACT and "@" in str(recorded.cost.get("attack", ""))
        if allowed is None or name not in recorded.cost or searched:
            continue  # how often a search for a distortion tries depends on the last bits
        then = recorded.cost[name]
        if name in _LATER and not _known(then):
            continue
        if not _near(then, value, allowed):
            yield f"{name} {_shown(value)}, recorded {_shown(then)}"
    hidden = {*cost["flags"]} - {*recorded.cost["flags"], *_OF_MACHINE}
    if hidden:
        yield f"the flags {', '.join(sorted(hidden))}, not recorded"


def _allowed(name: str, value: Any, attack: str) -> float | None:
    """How far apart a column may be; None for one that is not compared."""
    if name in _EXACT:
        return 0.5
    if name == "linf" and not _bounded(attack):
        return _UNBOUNDED_LINF * _number(value)
    if name in _RELATIVE:
        return _RELATIVE[name] * abs(_number(value)) + 1e-6
    return _ABSOLUTE.get(name)


def _bounded(attack: str) -> bool:
    """Whether a budget says what L-inf comes to."""
    return "eps=" in attack and "eps=none" not in attack


def one_sided(attack: str, above: Sequence[float]) -> str:
    """Why recorded Dice that always lie above what comes out are no rounding, or nothing.

    Rounding goes both ways. Deviations inside the tolerance that all favour the submitter do not.

    Args:
        attack: of the rows, clean or any.
        above: recorded minus computed, of every class that was computed again.

    Example:
        >>> one_sided("none", [0.0009] * 12)[:38], one_sided("none", [0.0009, -0.0009] * 6)
        ('expected deviations to both sides, got', '')
    """
    slack = 0.02 * tolerance_of(attack)
    moved = [value for value in above if abs(value) > slack]
    ups, mean = sum(value > 0 for value in moved), sum(above) / len(above) if above else 0.0
    chance = sum(math.comb(len(moved), k) for k in range(ups, len(moved) + 1)) / 2 ** len(moved)
    if mean <= slack or chance >= SURELY:
        return ""
    return (
        f"expected deviations to both sides, got recorded Dice above the computed ones in {ups} of {len(moved)} classes, "
        f"by {mean:.2g} on average (chance {chance:.1g})"
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _near(then: Any, now: Any, allowed: float) -> bool:
    unknown = [not _known(value) for value in (then, now)]
    return all(unknown) if any(unknown) else abs(then - now) <= allowed


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
