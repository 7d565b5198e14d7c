"""Attack success rates as files beside the tables: pure functions of the records, the same bytes for the same records.

====================  =====================================================================================
``success.csv``       a row per attack: share of right voxels turned wrong, share of organs lost
``success.md``        its rounded view, with a column per organ
``lost_organs.csv``   a row per attack and organ
====================  =====================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...metrics.statistics import with_interval
from ...records.reading import Frame, Records
from ...specs.spec import CLEAN
from .cases import KEYS, intervals_by_row, patients_of, with_hashes
from .markup import csv_text, markdown_table, markdown_text

if TYPE_CHECKING:
    from pandas import DataFrame


FILES = ("success.csv", "success.md", "lost_organs.csv")


COLUMNS = (
    *KEYS, "n_cases", "asr_voxel", "asr_foreground", "n_organs", "lost", "success", "success_low", "success_high",
)  # fmt: skip


TEXT = (*KEYS, "class_name")
_RATES = ["asr_voxel", "asr_foreground"]


LOST_BELOW = 0.5
"""An organ is lost when its Dice falls below this share of its clean Dice."""


_ROLE = ["dataset", "protocol", "target", "target_sha256", "case", "class_id"]


def lost_organs(records: Records) -> DataFrame:
    """Success rate of every attack per organ: in how many cases the organ's Dice fell below half of clean.

    An organ counts where the reference has it and its clean Dice is known and above 0.

    Source: none; the share of one half is ours. Differs from a drop of the mean in saying how often, not how much.

    Args:
        records: what :func:`robustvox.benchmark.records.reading.load_records` read.

    Returns:
        One row per dataset, protocol, surrogate, target, attack and class, sorted, with ``n_organs`` (organ,
        case and seed), ``lost`` and ``success`` = lost / n_organs in 0..1.

    Example:
        >>> from pathlib import Path
        >>> from robustvox.benchmark.records import load_records
        >>> lost_organs(load_records(Path("no/such/folder"))).columns[-3:].tolist()
        ['n_organs', 'lost', 'success']
    """
    return _by_organ(organ_outcomes(records))


def _by_organ(pairs: Frame) -> DataFrame:
    table: Frame = (
        pairs.groupby([*KEYS, "class_id", "class_name"])["lost"]
        .agg(n_organs="size", lost="sum")
        .reset_index()
    )
    table["lost"] = table["lost"].astype("int64")
    return table.assign(success=table["lost"] / table["n_organs"])


def organ_outcomes(records: Records) -> DataFrame:
    """Every organ of every attacked case (and seed), sorted, with ``lost`` true or false; see :func:`lost_organs`."""
    wanted = ["unit", "surrogate_sha256", "target_sha256", "patient"]
    scores: Any = records.scores.merge(records.costs[[c for c in wanted if c in records.costs]], on="unit")
    scores = scores.assign(patient=patients_of(scores))
    scores = scores[scores["class_id"] > 0]  # some protocols score the background, which is no organ
    clean = scores[(scores["attack"] == CLEAN) & scores["status"].isin(["ok", "missing"])]
    clean = clean.groupby(_ROLE, as_index=False)["dice"].mean().rename(columns={"dice": "dice_clean"})
    pairs = scores[scores["attack"] != CLEAN].merge(clean[clean["dice_clean"] > 0], on=_ROLE)
    pairs["lost"] = pairs["dice"] < LOST_BELOW * pairs["dice_clean"]
    return pairs.sort_values([*KEYS, "case", "class_id"], kind="stable", ignore_index=True)


def success_rates(records: Records) -> Frame:
    """Success rates of every attack, per voxel and over all organs.

    Args:
        records: what :func:`robustvox.benchmark.records.reading.load_records` read.

    Returns:
        One row per dataset, protocol, surrogate, target and attack, sorted, columns :data:`COLUMNS`. ``asr_voxel``
        and ``asr_foreground`` (see :class:`~robustvox.benchmark.metrics.success.VoxelSuccess`) are means over the cases
        whose record has them, NaN where none has (records older than the columns). ``success`` is the mean over
        cases of the share of a case's organs that are lost, with its 95% bootstrap interval; ``n_organs`` and
        ``lost`` count over all cases.

    Example:
        >>> from robustvox.benchmark.records import load_records
        >>> len(success_rates(load_records(Path("no/such/folder"))))
        0
    """
    return _by_attack(records, organ_outcomes(records))


def _by_attack(records: Records, outcomes: Frame) -> Frame:
    costs: Any = records.costs[records.costs["attack"] != CLEAN]
    costs = costs.sort_values([*KEYS, "case", "seed"], kind="stable")
    voxels = costs.groupby([*KEYS, "case"])[_RATES].mean().groupby(KEYS)
    table: Frame = voxels.mean().assign(n_cases=voxels.size())
    organs = outcomes.groupby(KEYS)["lost"]
    table["n_organs"] = organs.size()
    table["lost"] = organs.sum()
    table[["n_organs", "lost"]] = table[["n_organs", "lost"]].fillna(0).astype("int64")
    shares: Frame = outcomes.groupby([*KEYS, "case"]).agg(lost=("lost", "mean"), patient=("patient", "first"))
    shares["lost"] = shares["lost"].astype("float64")
    groups = shares.groupby(KEYS)
    bounds = groups.size().to_frame("size")
    bounds["low"], bounds["high"] = intervals_by_row(
        shares.assign(row=groups.ngroup()), "row", "lost", len(bounds)
    )
    table["success"] = groups["lost"].mean()
    table["success_low"], table["success_high"] = bounds["low"], bounds["high"]
    return table.reset_index()[list(COLUMNS)]


def render(folder: Path, records: Records) -> dict[Path, str]:
    """Text of :data:`FILES` for ``results/<dataset>``; nothing where no attack is recorded."""
    outcomes = organ_outcomes(records)
    both = _by_attack(records, outcomes), _by_organ(outcomes)
    rates, organs = (with_hashes(rows, records) for rows in both)
    if not len(rates):
        return {}
    shown = [name for name in TEXT if not name.endswith("_sha256")]
    return {
        folder / "success.csv": csv_text(_without_hashes(rates), shown),
        folder / "success.md": _markdown(rates, organs),
        folder / "lost_organs.csv": csv_text(_without_hashes(organs), shown),
    }


def _without_hashes(rows: Frame) -> Frame:
    """As in the other tables, where a name tells its checkpoint, with its hash where it stands for several."""
    return rows.drop(columns=["surrogate_sha256", "target_sha256"])


def _markdown(rates: Frame, organs: Frame) -> str:
    names = list(dict.fromkeys(organs.sort_values("class_id", kind="stable")["class_name"]))
    lost = {(*row[:7], row[8]): f"{row[10]}/{row[9]}" for row in organs.itertuples(index=False, name=None)}
    heading = [
        "surrogate",
        "target",
        "attack",
        "protocol",
        "cases",
        "voxels",
        "foreground voxels",
        "organs lost",
        *names,
    ]
    lines = []
    for row in rates.to_dict("records"):
        key = tuple(row[name] for name in KEYS)
        interval = "n/a" if np.isnan(row["success"]) else (
            with_interval(row["success"], row["success_low"], row["success_high"])
        )  # fmt: skip
        shown = ["n/a" if np.isnan(row[name]) else f"{row[name]:.3f}" for name in _RATES]
        text = [row["surrogate"], row["target"], row["attack"], row["protocol"]]
        lines.append(
            [*text, str(row["n_cases"]), *shown, interval, *(lost.get((*key, n), "n/a") for n in names)]
        )
    cells = ([markdown_text(cell) for cell in line] for line in lines)
    return markdown_table([markdown_text(name) for name in heading], cells, left=range(4))
