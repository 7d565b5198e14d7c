"""Which model holds out best under an attack, and which ones cannot be told from it.

The best is the model with the highest mean Dice under the attack: the white-box rows of one attack compete, and the
targets of one surrogate's volumes. Another model ties when the sign-flip test of
:func:`robustvox.benchmark.statistics.sign_flip`, over the cases both have and after Holm's correction over the group,
does not tell it from the best at the 5% level. With five cases or fewer no difference can reach that level, and everything ties.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .statistics import holm, sign_flip

BEST, TIED = "best", "tied"
LEVEL = 0.05
Marks = dict[tuple[str, ...], str]
"""``(dataset, protocol, surrogate, target, attack)`` to :data:`BEST` or :data:`TIED`; the others are not in it."""

Frame = Any  # a pandas object; pandas types its results as unions too wide to check
_ROW = ["dataset", "protocol", "surrogate", "target", "attack"]


def best_models(cases: Frame) -> Marks:
    """Marks of all rows that have somebody to be compared with.

    Args:
        cases: one row per case of every table row, with its identity and ``dice``, names unique per checkpoint.
    """
    from pandas import DataFrame

    known: Frame = cases[cases["dice"].notna()].sort_values([*_ROW, "case"], kind="stable")
    # A clean image is no surrogate's volume: all models compete on it.
    alone = (known["surrogate"] == known["target"]).to_numpy()
    groups = DataFrame(
        {
            "dataset": known["dataset"],
            "protocol": known["protocol"],
            "attack": known["attack"],
            "source": np.where(alone, "", known["surrogate"]),
            "own": alone,
        }
    )
    marks: Marks = {}
    for _, part in known.groupby([groups[name] for name in groups], sort=True):
        rows = {
            row: dict(zip(frame["case"].tolist(), frame["dice"].tolist(), strict=True))
            for row, frame in part.groupby(_ROW, sort=True)
        }
        if len(rows) > 1:
            marks |= _marks(rows)
    return marks


def _marks(rows: dict[Any, dict[str, float]]) -> Marks:
    """Marks of one group: case to Dice of every row."""
    means = {row: sum(values.values()) / len(values) for row, values in rows.items()}
    best = max(sorted(rows), key=lambda row: means[row])
    others, p_values = [], []
    for row in sorted(rows):
        shared = sorted(rows[row].keys() & rows[best].keys())
        if row != best and shared:
            others.append(row)
            p_values.append(sign_flip(np.array([rows[best][case] - rows[row][case] for case in shared])))
    tied = [row for row, p in zip(others, holm(p_values), strict=True) if p >= LEVEL]
    return {best: BEST, **dict.fromkeys(tied, TIED)}
