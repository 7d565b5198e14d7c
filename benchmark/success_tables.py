"""Attack success rates as files beside the tables: pure functions of the records, the same bytes for the same records.

====================  =====================================================================================
``success.csv``       a row per attack: share of right voxels turned wrong, share of organs lost
``success.md``        its rounded view, with a column per organ
``lost_organs.csv``   a row per attack and organ
====================  =====================================================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from .records import Records
from .statistics import bootstrap_intervals
from .success import KEYS, lost_organs, organ_outcomes

Frame = Any  # a pandas object inside this module; pandas types its results as unions too wide to check

FILES = ("success.csv", "success.md", "lost_organs.csv")
COLUMNS = (
    *KEYS, "n_cases", "asr_voxel", "asr_foreground", "n_organs", "lost", "success", "success_low", "success_high",
)  # fmt: skip
_RATES = ["asr_voxel", "asr_foreground"]


def success_rates(records: Records) -> Frame:
    """Success rates of every attack, per voxel and over all organs.

    Args:
        records: what :func:`robustvox.benchmark.records.load_records` read.

    Returns:
        One row per dataset, protocol, surrogate, target and attack, sorted, columns :data:`COLUMNS`. ``asr_voxel``
        and ``asr_foreground`` (see :class:`~robustvox.benchmark.success.VoxelSuccess`) are means over the cases
        whose record has them, NaN where none has (records older than the columns). ``success`` is the mean over
        cases of the share of a case's organs that are lost, with its 95% bootstrap interval; ``n_organs`` and
        ``lost`` count over all cases.

    Example:
        >>> from robustvox.benchmark.records import load_records
        >>> len(success_rates(load_records(Path("no/such/folder"))))
        0
    """
    costs: Any = records.costs[records.costs["attack"] != "none"]
    costs = costs.sort_values([*KEYS, "case", "seed"], kind="stable")
    voxels = costs.groupby([*KEYS, "case"])[_RATES].mean().groupby(KEYS)
    table: Frame = voxels.mean().assign(n_cases=voxels.size())
    outcomes: Frame = organ_outcomes(records)
    organs = outcomes.groupby(KEYS)["lost"]
    table["n_organs"] = organs.size()
    table["lost"] = organs.sum()
    table[["n_organs", "lost"]] = table[["n_organs", "lost"]].fillna(0).astype("int64")
    shares = outcomes.groupby([*KEYS, "case"])["lost"].mean().astype("float64")
    groups = shares.groupby(KEYS)
    bounds = shares.groupby(KEYS).size().to_frame("size")
    bounds[["low", "high"]] = np.nan
    # Rows with equally many cases share the resamples: one call for all of them.
    for size in sorted(set(bounds["size"])):
        chosen = (bounds["size"] == size).to_numpy()
        values = shares.to_numpy()[(groups.transform("size") == size).to_numpy()].reshape(-1, size)
        bounds.loc[chosen, "low"], bounds.loc[chosen, "high"] = bootstrap_intervals(values)
    table["success"] = groups.mean()
    table["success_low"], table["success_high"] = bounds["low"], bounds["high"]
    return table.reset_index()[list(COLUMNS)]


def render(folder: Path, records: Records) -> dict[Path, str]:
    """Text of :data:`FILES` for ``results/<dataset>``; nothing where no attack is recorded."""
    rates, organs = success_rates(records), lost_organs(records)
    if not len(rates):
        return {}
    return {
        folder / "success.csv": _csv(rates),
        folder / "success.md": _markdown(rates, organs),
        folder / "lost_organs.csv": _csv(organs),
    }


def _csv(table: Frame) -> str:
    """Unrounded; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = table.copy()
    for name in [name for name in (*KEYS, "class_name") if name in table]:
        safe[name] = [
            f"'{cell}" if str(cell)[:1] in ("=", "+", "-", "@") else cell for cell in map(_line, table[name])
        ]
    return safe.to_csv(index=False, lineterminator="\n")


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
    lines = [heading, [*["---"] * 4, *["---:"] * (len(heading) - 4)]]
    for row in rates.to_dict("records"):
        key = tuple(row[name] for name in KEYS)
        interval = "n/a" if np.isnan(row["success"]) else (
            f"{row['success']:.3f} ({row['success_low']:.3f} to {row['success_high']:.3f})"
        )  # fmt: skip
        shown = ["n/a" if np.isnan(row[name]) else f"{row[name]:.3f}" for name in _RATES]
        text = [row["surrogate"], row["target"], row["attack"], row["protocol"]]
        lines.append(
            [*text, str(row["n_cases"]), *shown, interval, *(lost.get((*key, n), "n/a") for n in names)]
        )
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"([\\`*\[\]|<])", r"\\\1", _line(text))


def _line(text: object) -> str:
    return (
        re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(text))
        .encode("utf-8", "replace")
        .decode("utf-8")
    )
