"""Tables: pure functions of the records, the same bytes for the same records.

Every mean is over the applicable classes of a case, then over cases (several seeds of one case are averaged
first, so that a case stays the unit of the bootstrap). CSV files hold the unrounded numbers; Markdown and
LaTeX are rounded views of them.

Sums that reach a CSV avoid matrix products: their last bits depend on the processor, and the committed tables
are compared byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...records.outcomes import KEYS as CHECK_KEYS
from ...records.reading import Frame, Records
from ...records.states import Found, state_of
from ...specs.spec import CLEAN
from ..labels import is_noise
from .cases import COSTS, KEYS, METRICS, intervals_by_row, per_case, with_hashes

if TYPE_CHECKING:
    from pandas import DataFrame


COLUMNS = (
    *("dataset", "protocol", "surrogate", "target", "attack", "n_cases"),
    *("dice_clean", "dice_adv", "dice_adv_low", "dice_adv_high"),
    *("hd95_clean_mm", "hd95_adv_mm", "nsd_clean", "nsd_adv"),
    *("missing", "hallucinated", "failed", "linf", "l2", "psnr", "ssim"),
    *("forwards", "backwards", "seconds", "flags", "checks"),
)


MEASURED_COLUMNS = ("seconds",)  # differ from run to run; everything else is determined by the inputs


CLEAN_INCOMPLETE = "clean-incomplete"  # flag: some scored case has no clean record, so clean means are empty


_COUNTS = ("n_cases", "missing", "hallucinated", "failed")


_TARGET_CASE = ["dataset", "protocol", "target", "target_sha256", "case"]


def white_box(records: Records, checks: DataFrame | None = None, states: Found | None = None) -> DataFrame:
    """Rows where the attacked checkpoint is the scored one.

    Args:
        records: what :func:`robustvox.benchmark.records.reading.load_records` read.
        checks: what :func:`robustvox.benchmark.records.outcomes.load_flags` read; None for no flags of checks.
        states: what :func:`robustvox.benchmark.records.states.load_states` read; None for nothing checked.

    Returns:
        One row per dataset, protocol, model and attack, sorted, columns :data:`COLUMNS`: Dice, NSD and SSIM
        in 0..1, HD95 in mm, L-inf (the largest over cases) and L2 in intensity units, PSNR in dB (mean over
        the cases that changed), ``seconds``, ``forwards`` and ``backwards`` per case, the others counts.

    Example:
        >>> from pathlib import Path
        >>> from robustvox.benchmark.records import load_records
        >>> white_box(load_records(Path("no/such/folder"))).columns[:3].tolist()
        ['dataset', 'protocol', 'surrogate']
    """
    return both(records, checks, states)[0]


def transfer(records: Records, checks: DataFrame | None = None, states: Found | None = None) -> DataFrame:
    """Rows where another checkpoint was attacked than the one scored; otherwise as :func:`white_box`."""
    return both(records, checks, states)[1]


def both(
    records: Records, checks: DataFrame | None = None, states: Found | None = None
) -> tuple[DataFrame, DataFrame]:
    """:func:`white_box` and :func:`transfer`, computed at once."""
    table, same = all_rows(records, checks, states=states)
    return table[same].reset_index(drop=True), table[~same].reset_index(drop=True)


def all_rows(
    records: Frame, checks: Frame = None, cases: Frame = None, states: Found | None = None
) -> tuple[Frame, Frame]:
    """All rows, and which of them are white-box; ``cases`` are those of :func:`per_case`, if at hand.

    ``states`` are those of :func:`robustvox.benchmark.records.states.load_states`; None for rows that nobody checked.
    """
    cases = per_case(records) if cases is None else cases
    attacked = cases[cases["attack"] != CLEAN]
    clean = cases[cases["attack"] == CLEAN].groupby(_TARGET_CASE, as_index=False)[METRICS].mean()
    attacked = attacked.merge(clean, "left", _TARGET_CASE, suffixes=("_adv", "_clean"), indicator="clean")
    attacked["clean"] = attacked["clean"] == "both"
    attacked = attacked.sort_values([*KEYS, "case"], kind="stable", ignore_index=True)
    groups = attacked.groupby(KEYS)
    adversarial, unharmed = ([f"{name}_{side}" for name in METRICS] for side in ("adv", "clean"))
    rows = groups[[*adversarial, *unharmed, *COSTS]].mean()
    rows[["missing", "hallucinated"]] = groups[["missing", "hallucinated"]].sum()
    rows["linf"] = groups["linf"].max()
    rows["n_cases"] = groups.size()
    rows["dice_adv_low"], rows["dice_adv_high"] = _intervals(attacked, groups.ngroup(), rows)
    incomplete = ~groups["clean"].all().astype(bool)
    rows.loc[incomplete, unharmed] = np.nan
    rows["flags"] = _flags(records, rows.index[incomplete], checks)
    failures = records.failures[records.failures["attack"] != CLEAN]
    rows = rows.join(failures.groupby(KEYS)["case"].nunique().rename("failed"), how="outer").reset_index()
    rows[list(_COUNTS)] = rows[list(_COUNTS)].fillna(0).astype("int64")
    rows["flags"] = rows["flags"].astype(object).where(rows["flags"].notna(), "")
    rows["checks"] = [
        state_of(states or {}, protocol, sha256, attack, control=is_noise(attack)).name
        for protocol, sha256, attack in zip(
            rows["protocol"], rows["surrogate_sha256"], rows["attack"], strict=True
        )
    ]
    rows = rows.rename(columns={f"hd95_mm_{side}": f"hd95_{side}_mm" for side in ("adv", "clean")})
    rows["white_box"] = (rows["surrogate"] == rows["target"]) & (
        rows["surrogate_sha256"] == rows["target_sha256"]
    )
    rows = with_hashes(rows, records).sort_values(
        [*COLUMNS[:5], "surrogate_sha256", "target_sha256"], kind="stable", ignore_index=True
    )
    return rows[list(COLUMNS)], rows["white_box"].astype(bool)


def _intervals(cases: Frame, group: Frame, rows: Frame) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap intervals of the mean over cases, per row, patients resampled."""
    known = cases["dice_adv"].notna().to_numpy()
    shown = cases[known].assign(row=group[known])
    low, high = intervals_by_row(shown, "row", "dice_adv", len(rows))
    mean = rows["dice_adv"].to_numpy()
    # With equal values the resampled mean may differ from the mean in the last bit.
    return np.minimum(low, mean), np.maximum(high, mean)


def _flags(records: Frame, incomplete: Frame, checks: Frame) -> Frame:
    """Sorted union of the flags of each group, joined by semicolons."""
    from pandas import concat

    flags = records.costs[[*KEYS, "flags"]].explode("flags").dropna(subset="flags")
    if checks is not None and len(checks):
        # Checks know the surrogate and the attack, whatever the target.
        found = records.costs[KEYS].drop_duplicates().merge(checks, on=list(CHECK_KEYS))
        flags = concat([flags, found[[*KEYS, "flags"]]])
    flags = concat([flags, incomplete.to_frame(index=False).assign(flags=CLEAN_INCOMPLETE)])
    flags = flags.drop_duplicates().sort_values([*KEYS, "flags"])
    return flags.groupby(KEYS)["flags"].agg(";".join)
