"""How much memory one foreign file may ask for."""

from __future__ import annotations

import math
import os
from contextlib import suppress

from .base import CaseError, DatasetError

VARIABLE = "ROBUSTVOX_MEMORY_GIB"
DEFAULT_GIB = 4.0


def require_memory(needed: float, what: str, case_id: str) -> None:
    """Refuse what needs more than 4 GiB, or than what ``ROBUSTVOX_MEMORY_GIB`` says.

    Args:
        needed: bytes.
        what: needs them.
        case_id: for the message.

    Raises:
        CaseError: says how to allow it.
        DatasetError: the variable holds no positive number.
    """
    limit = _limit()
    if needed > limit:
        raise CaseError(
            case_id,
            f"at most {_gib(limit)} for {what}",
            f"a need of {_gib(needed)}",
            f"set {VARIABLE}={math.ceil(needed / 2**30)} to allow it",
        )


def _limit() -> int:
    text = os.environ.get(VARIABLE) or str(DEFAULT_GIB)
    with suppress(ValueError):
        if (value := float(text)) > 0:
            return int(min(value, 2**20) * 2**30)
    raise DatasetError(
        f"expected a positive number of GiB in {VARIABLE}, found {text!r}; correct or unset it"
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
