"""Specs: how a person names a model or an attack with its parameters, and how it is identified in records.

``pgd:eps=8/255,steps=20`` is a name and parameters; numbers may be fractions. The canonical spec of an attack
has all defaults filled in and sorted, so equal attacks have equal specs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CLEAN = "none"
"""What stands for an attack where the clean image is scored."""


class UsageError(ValueError):
    """The user asked for something that cannot be; one line, exit code 2."""


class UnfinishedError(RuntimeError):
    """A run cannot go on, for no fault of a case: one line that says how it goes on, exit code 3.

    What was finished is recorded, and the rest has no row: the same command tries it again.
    """


@dataclass(frozen=True)
class Spec:
    """A name with parameters, as written on the command line.

    Example:
        >>> Spec.parse("PGD:eps=8/255,random_start=false").parameters
        {'eps': 0.03137254901960784, 'random_start': False}
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read ``NAME[:key=value,...]``; ``package.module:Name`` keeps its colon.

        Raises:
            UsageError: if a parameter is not ``key=value``.
        """
        head, _, tail = text.partition(":")
        if tail and "=" not in re.split("[,:]", tail, maxsplit=1)[0]:
            # package.module:Name[:k=v]
            attribute, _, tail = tail.partition(":")
            head = f"{head}:{attribute}"
        parameters: dict[str, Any] = {}
        for part in filter(None, _split(tail)):
            key, equals, value = part.partition("=")
            if not equals or not key.strip().isidentifier():
                raise UsageError(
                    f"expected parameters as key=value, got {part!r} in {text!r}; write NAME:eps=8/255,steps=20"
                )
            parameters[key.strip()] = parse_value(value.strip())
        return cls(head.strip(), parameters)

    def __str__(self) -> str:
        return canonical(self.name, self.parameters)


def _split(text: str) -> list[str]:
    """Split at commas that are not inside parentheses, so that ``roi=(1,2)`` stays whole."""
    return re.split(r",(?![^(]*\))", text) if text else []


def parse_value(text: str) -> Any:
    """A number, fraction, boolean, ``none``, tuple of these, or the text itself."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("none", "null"):
        return None
    if text.startswith("(") and text.endswith(")"):
        return tuple(parse_value(v.strip()) for v in text[1:-1].split(",") if v.strip())
    for kind in (int, float, _fraction):
        try:
            return kind(text)
        except (ValueError, ZeroDivisionError):
            continue
    return text


def _fraction(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    if not slash:
        raise ValueError(text)
    return float(numerator) / float(denominator)


def format_value(value: Any) -> str:
    """The shortest text that parses back to ``value``; intensities as fractions of 255 where they are."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        if float(f"{value:g}") == value:
            return f"{value:g}"
        # Only for values that came from such a fraction: the text must parse back to the same float.
        grey = f"{value * 255:.6g}"
        return f"{grey}/255" if float(grey) / 255 == value else repr(value)
    if isinstance(value, (tuple, list)):
        return "(" + ",".join(format_value(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    return str(value)


def canonical(name: str, parameters: Mapping[str, Any]) -> str:
    """``name:key=value,...`` with keys sorted."""
    body = ",".join(f"{key}={format_value(parameters[key])}" for key in sorted(parameters))
    return f"{name}:{body}" if body else name


def normalize(name: str) -> str:
    """Names are matched without regard to case, ``-``, ``_`` or blanks."""
    return re.sub(r"[-_\s]", "", name.lower())


def match(name: str, known: Iterable[str], what: str) -> str:
    """The registry key a written name means.

    Raises:
        UsageError: with the nearest known name as suggestion.
    """
    keys = {normalize(key): key for key in known}
    if normalize(name) in keys:
        return keys[normalize(name)]
    near = difflib.get_close_matches(normalize(name), keys, n=1, cutoff=0.5)
    hint = f"did you mean {keys[near[0]]}?" if near else f"known: {', '.join(sorted(keys.values()))}"
    raise UsageError(f"unknown {what} {name!r}; {hint}")
