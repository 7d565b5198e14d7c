"""Where records lie."""

from __future__ import annotations

from pathlib import PurePosixPath

from ..specs.names import component
from ..specs.spec import CLEAN


def records_file(protocol: str, surrogate: str, attack: str) -> PurePosixPath:
    """File of a unit's rows, relative to ``results/<dataset>/records``.

    Args:
        protocol: name of the protocol.
        surrogate: name of the attacked model.
        attack: canonical attack spec, ``"none"`` for the clean image.

    Example:
        >>> str(records_file("robustvox-1", "unet", "pgd:eps=8/255"))
        'robustvox-1/unet/pgd.jsonl'
    """
    file = "clean" if attack == CLEAN else component(attack.partition(":")[0])
    return PurePosixPath(component(protocol), component(surrogate), f"{file}.jsonl")
