"""Whether a model's classes are the data's, where both have names for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import CheckpointError


def require_order(theirs: Sequence[str], ours: Sequence[str], where: str) -> None:
    """Refuse a model that has one of the data's classes at another place: its logits would be scored as another organ.

    Names that the data do not have say nothing: a class may be called otherwise.

    Args:
        theirs: classes of the model, background first.
        ours: classes of the data, background first.
        where: of the model, for the message.

    Raises:
        CheckpointError: with the first class that is elsewhere.

    Example:
        >>> require_order(["Background", "left-kidney"], ["background", "left kidney"], "a.safetensors")
        >>> require_order(["background", "b", "a"], ["background", "a", "b"], "a.safetensors")
        Traceback (most recent call last):
        robustvox.models.errors.CheckpointError: expected class 1 of a.safetensors to be a as in the data, found b; ...
    """
    mine, known = [_plain(name) for name in ours], [_plain(name) for name in theirs]
    for index, name in enumerate(known):
        if name in mine and known.count(name) == mine.count(name) == 1 and mine.index(name) != index:
            data = f"{ours[index]} as in the data" if index < len(ours) else "a class of the data"
            raise CheckpointError(
                f"expected class {index} of {where} to be {data}, found {theirs[index]}; list the data's classes in the "
                "order of the model, or give the dataset it was trained on"
            )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
