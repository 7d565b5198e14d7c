"""Whether a model's classes and channels are the data's, where both have names for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .errors import CheckpointError


def require_order(
    theirs: Sequence[str], ours: Sequence[str], where: str, *, noun: str = "class", plural: str = "classes"
) -> None:
    """Refuse a model that has one of the data's classes at another place: its logits would be scored as another organ.

    Names that the data do not have say nothing: a class may be called otherwise.

    Args:
        theirs: classes of the model, background first.
        ours: classes of the data, background first.
        where: of the model, for the message.
        noun, plural: what is named, for the message; image channels that are swapped are as wrong as classes.

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
            data = f"{ours[index]} as in the data" if index < len(ours) else f"a {noun} of the data"
            raise CheckpointError(
                f"expected {noun} {index} of {where} to be {data}, found {theirs[index]}; list the data's {plural} in the "
                "order of the model, or give the dataset it was trained on"
            )


def require_channels(theirs: Sequence[str], ours: Sequence[str], where: str) -> None:
    """:func:`require_order` of image channels: CT and PET where the network learned PET and CT.

    Raises:
        CheckpointError: with the first channel that is elsewhere.
    """
    require_order(theirs, ours, where, noun="channel", plural="channels")


def in_order(named: object) -> tuple[str, ...]:
    """Names of a mapping ``{"0": "CT", "1": "PET"}`` by their numbers, of a list as they stand; else none.

    Example:
        >>> in_order({"1": "PET", "0": "CT"}), in_order("CT")
        (('CT', 'PET'), ())
    """
    if isinstance(named, Mapping) and all(str(key).isdecimal() for key in named):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    return tuple(map(str, named)) if isinstance(named, list | tuple) else ()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
