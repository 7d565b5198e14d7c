"""The ``steal`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import StealRequest
from .options import command


@command(StealRequest)
def steal(request: StealRequest) -> int:
    """Copy a model through its inputs and outputs from another scanner, attack with the copy, measure defences."""
    from .commands.steal import steal_model

    return steal_model(request)
