"""Families of models and attacks, and short names for attack specs, as the page groups them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.attacks.catalog import NOISE as NOISE
from robustvox.models import CATALOG as MODELS

from ..specs.defences import NONE as NATURAL
from ..specs.defences import split_defence
from ..specs.knobs import KNOBS, STEPS, find_knob, is_number
from ..specs.matched import ParsedSpec, parse_spec
from ..specs.spec import canonical, format_value

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
        line: the same for all specs that differ in nothing but the budget, without it.
        knob: the hyper-parameter that sets the budget; empty where none does, or where it is matched.
        parameters: hyper-parameters as parsed.
        kept: those that stay when only the budget changes; a step size that follows the budget is not among them.
    """

    spec: str
    name: str
    family: str
    budget: str
    label: str
    line: str = ""
    knob: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def one_step(self) -> bool:
        """Whether it takes a single step, and so is no measure of the worst case."""
        return self.name in ATTACKS and ATTACKS[self.name].one_step

    @property
    def series(self) -> tuple[Any, ...]:
        """Equal for specs that differ in nothing but the budget."""
        matched = self.budget if "@" in self.spec else ""
        return (self.name, tuple(sorted((k, format_value(v)) for k, v in self.kept.items())), matched)


def is_noise(spec: str) -> bool:
    """Whether an attack is a control.

    Example:
        >>> is_noise("gn:std=8/255"), is_noise("pgd:eps=8/255")
        (True, False)
    """
    name = parse_spec(spec).name
    return name in ATTACKS and ATTACKS[name].family == NOISE


def model_family(name: str) -> str:
    """Family of a model by its registry key; ``@hash`` and parameters behind it do not matter.

    Example:
        >>> model_family("swin_unetr@1a2b3c4d"), model_family("mine.net:Factory")
        ('transformer', 'other')
    """
    entry = MODELS.get(re.split("[@:]", name, maxsplit=1)[0])
    return entry.family if entry else OTHER


def model_defence(name: str) -> str:
    """What a model was trained with against attacks, by its name; the word for none where it carries nothing.

    Example:
        >>> model_defence("unet@pgd_at@1a2b3c4d"), model_defence("unet@1a2b3c4d")
        ('pgd_at', 'natural')
    """
    return split_defence(name)[1] or NATURAL


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
        >>> [a.line for a in names.values()]
        ['gn', 'pgd steps 100', 'pgd']
    """
    parsed = {spec: parse_spec(spec) for spec in sorted(specs)}
    usual = _usual(parsed, specs)
    labels = {spec: _label(parsed[spec], usual) for spec in parsed}
    seen = Counter(labels.values())
    for spec, label in labels.items():
        if seen[label] > 1:
            own = {k: v for k, v in parsed[spec][1].items() if k in STEPS}
            labels[spec] = " ".join([label, *(f"{k} {format_value(v)}" for k, v in sorted(own.items()))])
    seen = Counter(labels.values())
    kept = _kept(parsed, specs)
    named = {}
    for spec, (name, parameters, matched) in parsed.items():
        knob = "" if matched else find_knob(parameters)
        budget = (
            f"{matched.on.upper()} as {_label(parse_spec(matched.reference), usual)}"
            if matched
            else _budget(parameters, (measured or {}).get(spec, 0.0))
        )
        label = labels[spec] if seen[labels[spec]] == 1 else spec
        family = ATTACKS[name].family if name in ATTACKS else OTHER
        line = _line(name, kept[spec], usual) if knob else label
        named[spec] = AttackName(spec, name, family, budget, label, line, knob, parameters, kept[spec])
    lines = {(name.line, name.series) for name in named.values()}
    shared = Counter(line for line, _ in lines)
    return {
        spec: name if shared[name.line] == 1 else replace(name, line=canonical(name.name, name.kept))
        for spec, name in named.items()
    }


def _usual(parsed: Mapping[str, ParsedSpec], rows: Mapping[str, int]) -> dict[tuple[str, str], str]:
    """The value of every parameter with the most rows; ties go to the smaller text."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for spec, (name, parameters, _) in parsed.items():
        for key, value in parameters.items():
            counts.setdefault((name, key), Counter())[format_value(value)] += rows[spec]
    return {key: min(found, key=lambda v, c=found: (-c[v], v)) for key, found in counts.items()}


def _kept(parsed: Mapping[str, ParsedSpec], rows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Parameters that stay when only the budget changes, by spec.

    A step size follows the budget where it keeps the ratio that most specs keep which agree in all else. One that
    does not is a choice of its own: ``pgd:alpha=0.0001`` is no point on the curve of ``pgd``.
    """
    kept: dict[str, dict[str, Any]] = {}
    ratios: dict[tuple[str, str], Counter[float]] = {}
    weights: dict[tuple[str, str], Counter[float]] = {}
    for spec, (name, parameters, matched) in parsed.items():
        knob = "" if matched else find_knob(parameters)
        kept[spec] = {k: v for k, v in parameters.items() if k not in (knob, *STEPS)}
        for step, ratio in _ratios(parameters, knob).items():
            key = (canonical(name, kept[spec]), step)
            ratios.setdefault(key, Counter())[ratio] += 1
            weights.setdefault(key, Counter())[ratio] += rows[spec]
    for spec, (name, parameters, matched) in parsed.items():
        group = canonical(name, kept[spec])
        for step, ratio in _ratios(parameters, "" if matched else find_knob(parameters)).items():
            found, heavy = ratios[group, step], weights[group, step]
            if ratio != max(found, key=lambda r, f=found, h=heavy: (f[r], h[r], r)):
                kept[spec][step] = parameters[step]
    return kept


def _ratios(parameters: Mapping[str, Any], knob: str) -> dict[str, float]:
    """Step sizes over the budget, rounded so that equal ones are equal; a spec holds few digits."""
    size = parameters.get(knob)
    if not _number(size) or size <= 0:
        return {}
    steps = {step: parameters.get(step) for step in STEPS}
    return {step: float(f"{value / size:.5g}") for step, value in steps.items() if _number(value)}


def _line(name: str, kept: Mapping[str, Any], usual: Mapping[tuple[str, str], str]) -> str:
    steps = [f"{step} {format_value(kept[step])}" for step in STEPS if step in kept]
    return " ".join([_label(ParsedSpec(name, kept, None), usual), *steps])


def _label(spec: ParsedSpec, usual: Mapping[tuple[str, str], str]) -> str:
    name, parameters, matched = spec
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
        words.append(f"at {matched.on.upper()} of {_label(parse_spec(matched.reference), usual)}")
    return " ".join(words)


def _budget(parameters: Mapping[str, Any], linf: float) -> str:
    eps = parameters.get("eps")
    return f"L∞ {format_value(eps)}" if _number(eps) and linf <= eps * (1 + SLACK) else UNBOUNDED


def _number(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value)
