"""How closely two computations of one row agree, in Dice per class; docs/submitting.md has the measurements."""

from __future__ import annotations

from .spec import CLEAN

CLEAN_TOLERANCE = 1e-3
ATTACKED_TOLERANCE = 0.01
ELSEWHERE_TOLERANCE = 0.03
"""Of an attacked row made on another kind of device: twenty signed steps carry another order of sums far."""


def tolerance_of(attack: str, *, elsewhere: bool = False) -> float:
    """Of a row of this attack; `elsewhere` if the two were computed on different kinds of device.

    Example:
        >>> tolerance_of("none"), tolerance_of("pgd:eps=8/255"), tolerance_of("pgd:eps=8/255", elsewhere=True)
        (0.001, 0.01, 0.03)
    """
    if attack == CLEAN:
        return CLEAN_TOLERANCE
    return ELSEWHERE_TOLERANCE if elsewhere else ATTACKED_TOLERANCE
