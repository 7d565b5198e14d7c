"""Families of models and attacks, and short names for attack specs, as the page groups them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.attacks.catalog import NOISE as NOISE
from robustvox.models import CATALOG as MODELS

from ..specs.knobs import KNOBS, STEPS, is_number
from ..specs.matched import split_spec
from ..specs.spec import Spec, UsageError, format_value

OTHER = "other"


UNBOUNDED = "no L∞ bound"


SLACK = 1e-3  # relative, of a measured L-inf over its bound: float32 and rounding of the image


@dataclass(frozen=True)
class AttackName:
    """An attack as the page speaks of it.

    Attributes:
        spec: canonical spec, its identity.
        name: registry key, as far as the spec tells.
        family: of the attack's row in the catalogue, or ``other``.
        budget: what may be compared with what: ``L∞ 8/255``, ``no L∞ bound``, ``L2 as pgd 8/255``.
        label: the shortest text that tells it from the other attacks on the page.
        parameters: hyper-parameters as parsed.
    """

    spec: str
    name: str
    family: str
    budget: str
    label: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def one_step(self) -> bool:
        """Whether it takes a single step, and so is no measure of the worst case."""
        return self.name in ATTACKS and ATTACKS[self.name].one_step

    @property
    def series(self) -> tuple[Any, ...]:
        """Equal for specs that differ in nothing but the budget."""
        kept = {k: v for k, v in self.parameters.items() if k not in (*KNOBS, *STEPS)}
        matched = self.budget if "@" in self.spec else ""
        return (self.name, tuple(sorted((k, format_value(v)) for k, v in kept.items())), matched)


def model_family(name: str) -> str:
    """Family of a model by its registry key; ``@hash`` and parameters behind it do not matter.

    Example:
        >>> model_family("swin_unetr@1a2b3c4d"), model_family("mine.net:Factory")
        ('transformer', 'other')
    """
    entry = MODELS.get(re.split("[@:]", name, maxsplit=1)[0])
    return entry.family if entry else OTHER


def attack_names(
    specs: Mapping[str, int], measured: Mapping[str, float] | None = None
) -> dict[str, AttackName]:
    """Describe the attacks that stand on one page together.

    Args:
        specs: canonical specs, each with how many rows it has; where specs of one attack differ in a
            parameter, the value with fewer rows is named.
        measured: largest L-inf seen, by spec. An ``eps`` that was not kept is no bound, whatever an attack of
            somebody's own means by the word.

    Example:
        >>> names = attack_names({"pgd:eps=8/255,steps=20": 5, "pgd:eps=8/255,steps=100": 1, "gn:std=4/255": 5})
        >>> [(a.label, a.budget) for a in names.values()]
        [('gn std 4/255', 'no L∞ bound'), ('pgd 8/255 steps 100', 'L∞ 8/255'), ('pgd 8/255', 'L∞ 8/255')]
    """
    parsed = {spec: _parse(spec) for spec in sorted(specs)}
    usual = _usual(parsed, specs)
    labels = {spec: _label(*parsed[spec], usual) for spec in parsed}
    seen = Counter(labels.values())
    for spec, label in labels.items():
        if seen[label] > 1:
            own = {k: v for k, v in parsed[spec][1].items() if k in STEPS}
            labels[spec] = " ".join([label, *(f"{k} {format_value(v)}" for k, v in sorted(own.items()))])
    seen = Counter(labels.values())
    named = {}
    for spec, (name, parameters, matched) in parsed.items():
        budget = (
            f"{matched[0]} as {_label(*_parse(matched[1]), usual)}"
            if matched
            else _budget(parameters, (measured or {}).get(spec, 0.0))
        )
        label = labels[spec] if seen[labels[spec]] == 1 else spec
        family = ATTACKS[name].family if name in ATTACKS else OTHER
        named[spec] = AttackName(spec, name, family, budget, label, parameters)
    return named


_Parsed = tuple[str, Mapping[str, Any], tuple[str, str] | None]


def _parse(spec: str) -> _Parsed:
    """Name, parameters, and for a matched attack the measure and the reference."""
    matched = split_spec(spec)
    try:
        plain = Spec.parse(matched.attack if matched else spec)
    except UsageError:
        return spec, {}, None
    return plain.name, plain.parameters, (matched.on.upper(), matched.reference) if matched else None


def _usual(parsed: Mapping[str, _Parsed], rows: Mapping[str, int]) -> dict[tuple[str, str], str]:
    """The value of every parameter with the most rows; ties go to the smaller text."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for spec, (name, parameters, _) in parsed.items():
        for key, value in parameters.items():
            counts.setdefault((name, key), Counter())[format_value(value)] += rows[spec]
    return {key: min(found, key=lambda v, c=found: (-c[v], v)) for key, found in counts.items()}


def _label(
    name: str, parameters: Mapping[str, Any], matched: Any, usual: Mapping[tuple[str, str], str]
) -> str:
    words = [name]
    for key in KNOBS:
        if _number(parameters.get(key)) and not matched:
            # eps is what everybody means by a bare fraction.
            words.append(("" if key == "eps" else f"{key} ") + format_value(parameters[key]))
    for key, value in sorted(parameters.items()):
        text = format_value(value)
        if key not in (*KNOBS, *STEPS) and usual.get((name, key), text) != text:
            words.append(f"{key} {text}")
    if matched:
        words.append(f"at {matched[0]} of {_label(*_parse(matched[1]), usual)}")
    return " ".join(words)


def _budget(parameters: Mapping[str, Any], linf: float) -> str:
    eps = parameters.get("eps")
    return f"L∞ {format_value(eps)}" if _number(eps) and linf <= eps * (1 + SLACK) else UNBOUNDED


def _number(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value)
