"""The ``check`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.crossing import CROSSED
from ..specs.requests import CheckRequest
from .options import command


@command(CheckRequest, keep=CROSSED, required=("models", "attacks"), split="validation", cases="first:2")
def check(request: CheckRequest) -> int:
    """Check whether the numbers of attacks on models can be believed: C0 to C27, pass, warn or fail.

    Warnings and failures become flags of the tables (`C8:fail`), except C17 and C21, which inform. Not computed:
    C19 (per-case reporting), a property of the records, and the transfer half of C5, a comparison of two tables.
    """
    from .commands.check import check_benchmark

    return check_benchmark(request)
