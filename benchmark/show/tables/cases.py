"""One row per case: means over classes, then over seeds."""

from __future__ import annotations

import numpy as np

from ...metrics.statistics import shown_intervals
from ...records.reading import Frame

KEYS = ["dataset", "protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack"]
"""What identifies a row: whose volumes by which attack, scored on whom."""


METRICS = ["dice", "hd95_mm", "nsd"]


COSTS = ["l2", "psnr", "ssim", "forwards", "backwards", "seconds"]


def per_case(records: Frame) -> Frame:
    """One row per case of every dataset, protocol, surrogate, target (by checkpoint) and attack.

    Means over classes, then over seeds, counts of class-cases, and the ``patient``.
    """
    units = records.costs[[*KEYS, "case", "seed", "unit", "linf", "patient", *COSTS]]
    units = units.assign(patient=patients_of(units))
    units = units.sort_values([*KEYS, "case", "seed"], kind="stable")
    scores = records.scores[["unit", "class_id", *METRICS, "status"]].merge(
        units[[*KEYS, "case", "seed", "unit"]], on="unit"
    )
    # A fixed order before every sum: the records' own order must not reach the last bit.
    scores = scores.sort_values([*KEYS, "case", "seed", "class_id"], kind="stable")
    units = units.merge(scores.groupby("unit")[METRICS].mean(), "left", left_on="unit", right_index=True)
    groups = units.groupby([*KEYS, "case"])
    cases = groups[[*METRICS, *COSTS]].mean()
    cases["linf"] = groups["linf"].max()
    cases["patient"] = groups["patient"].first()
    # Over several seeds a class-case counts once.
    for status in ("missing", "hallucinated"):
        affected = scores[scores["status"] == status].drop_duplicates([*KEYS, "case", "class_id"])
        cases[status] = affected.groupby([*KEYS, "case"]).size()
        cases[status] = cases[status].fillna(0).astype("int64")
    return cases.reset_index()


def patients_of(costs: Frame) -> Frame:
    """Whom each case is of: as recorded, else the case itself."""
    if "patient" not in costs:
        return costs["case"]
    return costs["patient"].where(costs["patient"].notna(), costs["case"])


def intervals_by_row(cases: Frame, row: str, value: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap intervals of the means of rows, patients resampled; NaN for a row without cases.

    Rows over as many cases of the same patients share the resampled indices, so their means are compared in pairs.

    Args:
        cases: sorted by row, a row's cases in a fixed order, with ``patient``.
        row: column of the row's number, from 0.
        value: column of what is averaged, without NaN.
        count: of rows.
    """
    low, high = np.full((2, count), np.nan)
    alike: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for number, own in cases.groupby(row, sort=True):
        first = {name: place for place, name in reversed(list(enumerate(own["patient"])))}
        # Which cases are of one patient, by the place of that patient's first case.
        shape = tuple(first[name] for name in own["patient"])
        alike.setdefault(shape, []).append((int(number), own[value].to_numpy()))
    for shape, found in alike.items():
        chosen = [number for number, _ in found]
        table = np.stack([values for _, values in found])
        low[chosen], high[chosen] = shown_intervals(table, patients=[str(place) for place in shape])
    return low, high


def with_hashes(rows: Frame, records: Frame) -> Frame:
    """A copy in which names that stand for several checkpoints are ``name@hash``."""
    from pandas import MultiIndex, concat

    roles = [
        frame[["dataset", role, f"{role}_sha256"]].set_axis(["dataset", "name", "sha256"], axis=1)
        for frame in (records.costs, records.failures)
        for role in ("surrogate", "target")
    ]
    several: Frame = concat(roles).drop_duplicates().value_counts(["dataset", "name"])
    several = several[several > 1].index
    rows = rows.copy()
    if not len(several):
        return rows
    for role in ("surrogate", "target"):
        ambiguous = MultiIndex.from_frame(rows[["dataset", role]]).isin(several)
        short = rows[f"{role}_sha256"].str[:8].replace("", "unknown")
        rows[role] = rows[role].where(~ambiguous, rows[role] + "@" + short)
    return rows
