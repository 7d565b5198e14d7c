"""Which model holds out best under an attack, and which ones cannot be told from it.

The best is the model with the highest mean Dice under the attack: the white-box rows of one attack compete, and the
targets of one surrogate's volumes. Another model ties when the sign-flip test of
:func:`robustvox.benchmark.metrics.statistics.sign_flip`, over the patients of the cases both have and after Holm's correction over
the group, does not tell it from the best at the 5% level. With five cases or fewer no difference can reach that
level, and everything ties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...metrics.statistics import holm, sign_flip
from ...records.reading import Frame
from .cases import patients_of

BEST, TIED = "best", "tied"


LEVEL = 0.05


Marks = dict[tuple[str, ...], str]
"""``(dataset, protocol, surrogate, target, attack)`` to :data:`BEST` or :data:`TIED`; the others are not in it."""


_ROW = ["dataset", "protocol", "surrogate", "target", "attack"]


def best_models(cases: Frame) -> Marks:
    """Marks of all rows that have somebody to be compared with.

    Args:
        cases: one row per case of every table row, with its identity and ``dice``, names unique per checkpoint.
    """
    known: Frame = cases[cases["dice"].notna()]
    groups: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, float]]] = {}
    patients = dict(zip(known["case"], patients_of(known), strict=True))
    for *row, case, dice in known[[*_ROW, "case", "dice"]].itertuples(index=False, name=None):
        dataset, protocol, surrogate, target, attack = row
        # White-box, every model stands for itself; in transfer, the targets of one surrogate compete.
        source = "" if surrogate == target else f"of {surrogate}"
        group = groups.setdefault((dataset, protocol, attack, source), {})
        group.setdefault((dataset, protocol, surrogate, target, attack), {})[case] = dice
    marks: Marks = {}
    for group in groups.values():
        if len(group) > 1:
            marks |= _marks(group, patients)
    return marks


def _marks(rows: dict[Any, dict[str, float]], patients: Mapping[str, str]) -> Marks:
    """Marks of one group: case to Dice of every row; signs flip by patient."""
    means = {row: math.fsum(values.values()) / len(values) for row, values in rows.items()}
    best = max(sorted(rows), key=lambda row: means[row])
    others, p_values = [], []
    for row in sorted(rows):
        shared = sorted(rows[row].keys() & rows[best].keys())
        if row != best and shared:
            others.append(row)
            apart = np.array([rows[best][case] - rows[row][case] for case in shared])
            p_values.append(sign_flip(apart, patients=[patients[case] for case in shared]))
    tied = [row for row, p in zip(others, holm(p_values), strict=True) if p >= LEVEL]
    return {best: BEST, **dict.fromkeys(tied, TIED)}
