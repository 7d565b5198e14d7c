"""How much memory one foreign file may ask for."""

from __future__ import annotations

import math
import os

from .base import DatasetError

VARIABLE = "ROBUSTVOX_MEMORY_GIB"
DEFAULT_GIB = 4.0


def memory_limit() -> int:
    """Bytes that reading one file may take; 4 GiB, or what ``ROBUSTVOX_MEMORY_GIB`` says.

    Raises:
        DatasetError: the variable holds no positive number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        value = float(text) if text else DEFAULT_GIB
    except ValueError:
        value = math.nan
    if not value > 0:
        raise DatasetError(
            f"expected a positive number of GiB in {VARIABLE}, found {text!r}; correct or unset it"
        )
    return int(min(value, 2**20) * 2**30)


def gib(size: float) -> str:
    """Bytes for people.

    Example:
        >>> gib(3 * 2**30)
        '3.0 GiB'
    """
    return f"{size / 2**30:.1f} GiB"


def over_limit(needed: float, what: str) -> tuple[str, str, str]:
    """What a refusal says: expected, found and remedy."""
    return (
        f"at most {gib(memory_limit())} for {what}",
        f"a need of {gib(needed)}",
        f"set {VARIABLE}={math.ceil(needed / 2**30)} to allow it",
    )
