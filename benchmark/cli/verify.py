"""The ``verify`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.entering import VerifyRequest
from .options import command


@command(VerifyRequest)
def verify(request: VerifyRequest) -> int:
    """Recompute a random sample of record rows from the checkpoints and compare; checks every row's identity."""
    from .commands.verify import verify_records

    return verify_records(request)
