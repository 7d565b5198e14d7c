"""Matched specs: ``ATTACK@MEASURE[~TOLERANCE]=REFERENCE``."""

from __future__ import annotations

import re
from typing import NamedTuple

from .knobs import TOLERANCE
from .spec import format_value


class MatchedSpec(NamedTuple):
    attack: str
    on: str
    tolerance: str
    reference: str


def split_spec(spec: str) -> MatchedSpec | None:
    """The parts of ``ATTACK@MEASURE[~TOLERANCE]=REFERENCE``; None for the spec of a plain attack.

    Example:
        >>> split_spec("vafa:steps=5@l2=pgd:eps=8/255").reference
        'pgd:eps=8/255'
    """
    parts = re.fullmatch(r"([^@]+)@([a-z0-9]+)(?:~([^=]*))?=(.+)", spec, re.IGNORECASE)
    return parts and MatchedSpec(parts[1], parts[2].lower(), parts[3] or format_value(TOLERANCE), parts[4])


def noise_spec(spec: str) -> str:
    """The spec that seeds an attack's noise: of a matched one its reference's, else its own.

    So the reference inside runs with the noise of the row of its own, and gives the very volume that is
    scored there.
    """
    parts = split_spec(spec)
    return spec if parts is None else parts.reference
