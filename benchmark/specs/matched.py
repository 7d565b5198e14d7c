"""Matched specs: ``ATTACK@MEASURE[~TOLERANCE]=REFERENCE``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .knobs import TOLERANCE
from .spec import Spec, UsageError, format_value

SOURCE = "source"
"""What stands among the parameters of an attack of somebody's own: the hash of its code."""

_SOURCE = re.compile(rf"[:,]{SOURCE}=sha-[0-9a-f]{{12}}(?=,|$)")


def without_source(spec: str) -> str:
    """A canonical spec without the hash of the code it was run with.

    Example:
        >>> without_source("mine:Bias:amount=2,source=sha-0123456789ab,steps=3"), without_source("mine:Bias:source=sha-0123456789ab")
        ('mine:Bias:amount=2,steps=3', 'mine:Bias')
    """
    kept, times = _SOURCE.subn(lambda found: ":" if found[0][0] == ":" else "", spec)
    return spec if not times else kept.replace(":,", ":").rstrip(":")


class MatchedSpec(NamedTuple):
    """The parts of a matched spec, as text; the tolerance is filled in."""

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
    scored there. The code of an attack of somebody's own does not enter: a comment in it draws no other noise.
    """
    parts = split_spec(spec)
    return without_source(spec if parts is None else parts.reference)


class ParsedSpec(NamedTuple):
    """A recorded spec in its parts.

    Attributes:
        name: registry key, or what stands in its place.
        parameters: of the attack itself.
        matched: what it was matched to, if it was.
    """

    name: str
    parameters: Mapping[str, Any]
    matched: MatchedSpec | None


def parse_spec(spec: str) -> ParsedSpec:
    """The parts of any recorded spec; a text that is none is its own name.

    Example:
        >>> parse_spec("vafa:steps=5@l2=pgd:eps=8/255").name, parse_spec("no spec: at all").name
        ('vafa', 'no spec: at all')
    """
    matched = split_spec(spec)
    try:
        plain = Spec.parse(matched.attack if matched else spec)
    except UsageError:
        return ParsedSpec(spec, {}, None)
    return ParsedSpec(plain.name, plain.parameters, matched)
