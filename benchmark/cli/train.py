"""The ``train`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import TrainRequest
from .options import command


@command(TrainRequest)
def train(request: TrainRequest) -> int:
    """Train one network with the zoo's recipe and write its checkpoint."""
    from .commands.train import train_model

    return train_model(request)
