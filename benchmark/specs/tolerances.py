"""How closely two computations of one row agree, in Dice per class; docs/submitting.md has the measurements."""

from __future__ import annotations

from .spec import CLEAN

CLEAN_TOLERANCE = 1e-3


ATTACKED_TOLERANCE = 0.01


def tolerance_of(attack: str) -> float:
    """Of a row of this attack.

    Example:
        >>> tolerance_of("none"), tolerance_of("pgd:eps=8/255")
        (0.001, 0.01)
    """
    return CLEAN_TOLERANCE if attack == CLEAN else ATTACKED_TOLERANCE
