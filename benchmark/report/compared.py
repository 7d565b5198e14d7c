"""Models of one run side by side, in a sentence: who keeps most under the attack that hurts them most."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..show.tables.best import BEST, TIED, Marks
from .evidence import Evidence, Row
from .verdict import listed

NEEDED = 6
"""Patients from which a sign-flip test can reach the 5% level at all: 2 / 2^6 is below it, 2 / 2^5 is not."""


def compared(found: Sequence[Evidence], marks: Marks) -> str:
    """The sentence; empty for fewer than two attacked models, or none that met the same attack on the same cases.

    Args:
        found: what the rows say of each model.
        marks: of :func:`robustvox.benchmark.report.evidence.comparison`.
    """
    models = [model for model in found if model.white_box and model.attacks]
    if len(models) < 2:
        return ""
    rows = _shared(models)
    if not rows:
        return "The models share no attack on the same cases, so they cannot be compared."
    marked = {(surrogate, target, attack): mark for (_, _, surrogate, target, attack), mark in marks.items()}
    named = [
        (model.model, row, marked.get((model.model, model.model, row.attack), "")) for model, row in rows
    ]
    named.sort(key=lambda entry: -entry[1].dice)
    best = [f"{name} keeps most ({row.dice:.3f})" for name, row, mark in named if mark == BEST]
    tied = [f"{name} ({row.dice:.3f})" for name, row, mark in named if mark == TIED]
    below = [f"{name} ({row.dice:.3f})" for name, row, mark in named if not mark]
    said = [
        f"Under {rows[0][1].label}, of the attacks that all of them met the one that hurts most, {listed(best)}"
    ]
    if tied:
        said.append(f"{listed(tied)} cannot be told from it")
    if below:
        said.append(f"{listed(below)} {'is' if len(below) == 1 else 'are'} lower at the 5% level")
    text = "; ".join(said) + " (sign-flip test over patients, Holm's correction)."
    patients = min(row.patients for _, row in rows)
    if patients < NEEDED:
        text += f" With {patients} patient{'' if patients == 1 else 's'} no difference can reach that level."
    return text


def _shared(models: Sequence[Evidence]) -> list[tuple[Evidence, Row]]:
    """Of the attacks that all met on the same cases, the rows of the one with the lowest mean."""
    by_attack: dict[str, list[tuple[Evidence, Row]]] = {}
    for model in models:
        for row in model.attacks:
            by_attack.setdefault(row.attack, []).append((model, row))
    shared = [
        rows
        for rows in by_attack.values()
        if len(rows) == len(models) and len({frozenset(row.by_case) for _, row in rows}) == 1
    ]
    return min(shared, key=lambda rows: math.fsum(row.dice for _, row in rows), default=[])
