"""What a user may call a model in tables: a short plain name that is nobody else's."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .defences import CATALOG as DEFENCES
from .defences import NONE
from .names import printable
from .spec import UsageError

LONGEST = 40
"""Characters of a label: a row of a terminal has 80."""

_ALIKE = str.maketrans("015jl", "oisii")
"""Characters that a glance takes for one another."""


def label_problem(label: str, registered: Iterable[str]) -> str:
    """Why a text cannot stand for a model in tables, or nothing.

    Letters, digits and a few marks of ASCII only: nothing that moves a cursor, turns the direction of writing around or
    looks like another letter, and nothing that names parameters, a defence or a checkpoint.

    Args:
        label: as typed, or as stored.
        registered: names of models that a label may not be mistaken for, with or without a defence.

    Example:
        >>> label_problem("my net, v2", ["unet"]), label_problem("my net v2", ["unet"])
        ('a letter or digit, then letters, digits, blanks and . _ + - ( )', '')
        >>> label_problem("U-Net", ["unet"]), label_problem("un et_PGD AT", ["unet"])
        ("no name of the registry's models", "no name of the registry's models")
    """
    if len(label) > LONGEST:
        return f"at most {LONGEST} characters"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*(?<! )", label):
        return "a letter or digit, then letters, digits, blanks and . _ + - ( )"
    taken = {_glance(name + ending) for name in registered for ending in ("", NONE, *DEFENCES)}
    return "no name of the registry's models" if _glance(label) in taken else ""


def require_label(label: str, registered: Iterable[str]) -> str:
    """The label, where it is one.

    Raises:
        UsageError: it is none, or is a name of the registry's models.
    """
    problem = label_problem(label, registered)
    if problem:
        shown = printable(label) if len(label) <= LONGEST else f"{printable(label[:LONGEST])}..."
        raise UsageError(f"expected {problem} as --label, got {shown!r}; give another, such as 'my net v2'")
    return label


def _glance(name: str) -> str:
    """What is left of a name for who reads it in passing."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower()).translate(_ALIKE)
    return plain.replace("rn", "m").replace("vv", "w")
