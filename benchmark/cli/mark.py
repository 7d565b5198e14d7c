"""The commands ``mark``, ``unlock`` and ``marking`` as typed; their work is done in ``commands``."""

from __future__ import annotations

from ..specs.crossing import CROSSED
from ..specs.requests import MarkingRequest, MarkRequest, UnlockRequest
from .options import command

OWNER = ("models", "dataset", "data_root", "device", "checkpoints", "untrained")


@command(MarkRequest, keep=OWNER)
def mark(request: MarkRequest) -> int:
    """Mark volumes so that models misread them; with several --model on all as one. Only the key undoes it."""
    from .commands.mark import mark_folder

    return mark_folder(request)


@command(UnlockRequest)
def unlock(request: UnlockRequest) -> int:
    """Give marked volumes back bit for bit; a wrong key, a changed file or another's seal writes nothing."""
    from .commands.unlock import unlock_folder

    return unlock_folder(request)


@command(
    MarkingRequest,
    keep=(*(name for name in CROSSED if name not in ("attacks", "seed")), "targets"),
    split="validation",
    cases="first:4",
)
def marking(request: MarkingRequest) -> int:
    """The study of marks: what they do to models, what takes them off without the key, what they cost."""
    from .commands.marking import study_marks

    return study_marks(request)
