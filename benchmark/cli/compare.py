"""The ``compare`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import CompareRequest
from .options import command


@command(CompareRequest)
def compare(request: CompareRequest) -> int:
    """Is one model more robust than another? Paired over the recorded cases, white-box, corrected over the attacks."""
    from .commands.compare import compare_command

    return compare_command(request)
