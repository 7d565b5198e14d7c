"""One row per case: means over classes, then over seeds."""

from __future__ import annotations

from ...records.reading import Frame

KEYS = ["dataset", "protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack"]


METRICS = ["dice", "hd95_mm", "nsd"]


COSTS = ["l2", "psnr", "ssim", "forwards", "backwards", "seconds"]


def per_case(records: Frame) -> Frame:
    """One row per case of every dataset, protocol, surrogate, target (by checkpoint) and attack.

    Means over classes, then over seeds, and counts of class-cases.
    """
    units = records.costs[[*KEYS, "case", "seed", "unit", "linf", *COSTS]]
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
    # Over several seeds a class-case counts once.
    for status in ("missing", "hallucinated"):
        affected = scores[scores["status"] == status].drop_duplicates([*KEYS, "case", "class_id"])
        cases[status] = affected.groupby([*KEYS, "case"]).size()
        cases[status] = cases[status].fillna(0).astype("int64")
    return cases.reset_index()


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
    for role in ("surrogate", "target"):
        ambiguous = MultiIndex.from_frame(rows[["dataset", role]]).isin(several)
        short = rows[f"{role}_sha256"].str[:8].replace("", "unknown")
        rows[role] = rows[role].where(~ambiguous, rows[role] + "@" + short)
    return rows
