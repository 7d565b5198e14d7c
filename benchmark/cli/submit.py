"""The ``submit`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.entering import SubmitRequest
from .options import command


@command(SubmitRequest)
def submit(request: SubmitRequest) -> int:
    """Make a submission of a run and look through it: whole suite, checks, card, checkpoint. Nothing is sent anywhere."""
    from .commands.submit import make_submission

    return make_submission(request)
