"""Rows and tables of the study of marks: ``cases.csv.gz``, and ``marking.csv|md`` that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...metrics.statistics import shown_intervals
from ...records.packed import write_packed
from ...records.patients import patients_of_cases, read_patients
from ...records.reading import Frame
from ...records.writing import replace_file
from ...show.tables.markup import csv_text, markdown_table, markdown_text
from ...specs.spec import UsageError
from ..rows import read_rows
from .removers import REMOVERS
from .study import OWN_FIELD, Look, MarkJob

CASES = "cases.csv.gz"
_TEXT = ("study", "dataset", "case", "mark", "made_on", "view", "target")

COLUMNS = (
    "study", "dataset", "case", "seed", "mark", "made_on", "view", "target", "dice_clean", "dice", "linf", "psnr",
    "ssim", "label_changed", "seal_bytes", "seconds",
)  # fmt: skip
_NUMBERS = COLUMNS[COLUMNS.index("dice_clean") :]
_GROUP = ["dataset", "mark", "made_on", "view", "target"]


def read_cases(path: Path) -> Frame:
    """The rows of ``cases.csv.gz`` bit by bit; none where there is no file.

    Raises:
        UsageError: if the file holds something else.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return read_rows(path, COLUMNS, _TEXT)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"expected the rows of `marking` in {path}, found {error}; remove the file"
        ) from error


def measured(folder: Path, study: str, job: MarkJob) -> bool:
    """Whether the rows of a job are there; they are written all at once."""
    rows = read_cases(folder / CASES)
    same = (rows["study"] == study) & (rows["case"] == job.case) & (rows["mark"] == job.mark.name)
    witness = {Look.FIRST: "marked", Look.LEARNED: OWN_FIELD, Look.OTHERS: next(iter(REMOVERS))}
    view = rows["view"] == witness[job.look]
    return bool((same & view & (rows["seed"] == job.seed)).any())


def write(folder: Path, rows: Iterable[Mapping[str, Any]], study: str) -> None:
    """Add the rows of one look at a mark, drop those of the same look in another study, and derive the tables."""
    new = pd.DataFrame(list(rows), columns=list(COLUMNS))
    folder.mkdir(parents=True, exist_ok=True)
    old = read_cases(folder / CASES)
    # An identity is eight digits and the name of its look.
    other_look = old["study"].str.slice(8) != study[8:]
    old = old[(old["study"] == study) | other_look | ~old["mark"].isin(new["mark"])]
    both: Frame = pd.concat([frame for frame in (old, new) if len(frame)] or [new], ignore_index=True)
    table = summarize(both, read_patients(folder))
    write_packed(folder / CASES, csv_text(both, _TEXT))
    replace_file(folder / "marking.csv", csv_text(table, _TEXT))
    replace_file(folder / "marking.md", markdown(table))


def summary(folder: Path) -> str:
    """The tables as text; empty before the first case."""
    path = folder / "marking.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def summarize(cases: Frame, patients: Mapping[str, str] | None = None) -> Frame:
    """A row per mark, view and model: means over cases of the means over seeds.

    ``dice_low`` and ``dice_high`` bound the 95% bootstrap interval over patients, ``seed_low`` and ``seed_high`` are the
    lowest and the highest mean of one seed. ``net`` is the net protection, ``dice_clean - dice``.
    """
    rows = []
    for identity, group in cases.groupby(_GROUP, sort=False):
        per_case: Frame = group.groupby("case", sort=False)[list(_NUMBERS)].mean()
        whose = patients_of_cases(list(per_case.index), patients or {})
        low, high = shown_intervals(per_case["dice"].to_numpy()[None], patients=whose)
        per_seed = group.groupby("seed")["dice"].mean()
        means = per_case.mean().to_dict()
        rows.append(
            {
                **dict(zip(_GROUP, identity, strict=True)),
                "n_cases": len(per_case),
                "n_seeds": len(per_seed),
                **means,
                "dice_low": float(low[0]),
                "dice_high": float(high[0]),
                "seed_low": float(per_seed.min()),
                "seed_high": float(per_seed.max()),
                "net": means["dice_clean"] - means["dice"],
            }
        )
    return pd.DataFrame(rows)


def markdown(table: Frame) -> str:
    """Three tables: marks on models, removers on the white box and the others, cost."""
    if not len(table):
        return ""
    first = table.iloc[0]
    head = f"{first['dataset']}, {first['n_cases']} cases, {first['n_seeds']} keys each"
    parts = [f"## What models make of marked volumes\n\nMean foreground Dice. {head}.\n\n{_models(table)}"]
    for (mark, made_on), rows in table.groupby(["mark", "made_on"], sort=False):
        title = f"## {mark}, made on {made_on}: what takes it off"
        parts.append(
            f"{title}\n\nDice of the marked volume after the remover; in brackets the net protection, the Dice of the "
            f"same remover on the clean volume minus it.\n\n{_removers(rows)}"
        )
    parts.append(f"## What marks cost\n\n{_costs(table)}")
    return "\n\n".join(parts) + "\n"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = [[markdown_text(cell) for cell in line] for line in lines]
    return markdown_table(head, rest).rstrip()


def _models(table: Frame) -> str:
    targets = list(dict.fromkeys(table["target"]))
    first = table[table["view"] == "marked"]
    unlocked = table[table["view"] == "authorised"]
    # Of the first mark, whose cases the heading counts; another mark may not have all of them yet.
    clean = _of_first(first, "dice_clean")
    same = _of_first(unlocked, "dice")
    cases = int(first.iloc[0]["n_cases"]) if len(first) else 0
    lines = [["", *targets], ["clean", *(f"{clean[t]:.3f}" if t in clean else "" for t in targets)]]
    for (mark, made_on), rows in first.groupby(["mark", "made_on"], sort=False):
        dice = {row["target"]: row for row in rows.to_dict("records")}
        count = int(rows["n_cases"].max())
        fewer = "" if count == cases else f", {count} case{'s' if count > 1 else ''}"
        cells = [_marked(dice[t], own_clean=bool(fewer)) if t in dice else "" for t in targets]
        lines.append([f"{mark} on {made_on}{fewer}", *cells])
    lines.append(["unlocked with the key", *(f"{same[t]:.3f}" if t in same else "" for t in targets)])
    return _grid(lines)


def _of_first(rows: Frame, column: str) -> dict[str, float]:
    """A column by target, from the first mark that has it."""
    found: dict[str, float] = {}
    for row in rows.to_dict("records"):
        found.setdefault(row["target"], row[column])
    return found


def _marked(row: Mapping[str, Any], *, own_clean: bool) -> str:
    """Dice under a mark with the range over keys, and the clean Dice of its own cases where they are others."""
    of = f" of {row['dice_clean']:.3f}" if own_clean else ""
    return f"{row['dice']:.3f}{of} ({row['seed_low']:.3f} to {row['seed_high']:.3f})"


def _removers(rows: Frame) -> str:
    targets = list(dict.fromkeys(rows["target"]))
    views = [view for view in dict.fromkeys(rows["view"]) if view != "authorised"]
    counts = rows.groupby("target", sort=False).size()
    targets = [t for t in targets if counts[t] == counts.max()]
    cases = int(rows["n_cases"].max())
    lines = [["", *targets]]
    for view in views:
        found = {row["target"]: row for row in rows[rows["view"] == view].to_dict("records")}
        label = "nothing" if view == "marked" else view
        count = max(row["n_cases"] for row in found.values())
        label += "" if count == cases else f" ({count} of {cases} cases)"
        lines.append([label, *(f"{found[t]['dice']:.3f} ({found[t]['net']:+.3f})" for t in targets)])
    return _grid(lines)


def _costs(table: Frame) -> str:
    lines = [["", "L-inf (1/255)", "PSNR (dB)", "SSIM", "label voxels changed", "seal (kB)", "seconds"]]
    marked = table[table["view"] == "marked"]
    for (mark, made_on), rows in marked.groupby(["mark", "made_on"], sort=False):
        row = rows.iloc[0]
        lines.append(
            [
                f"{mark} on {made_on}",
                f"{255 * row['linf']:.1f}",
                "-" if np.isnan(row["psnr"]) else f"{row['psnr']:.1f}",
                f"{row['ssim']:.3f}",
                f"{100 * row['label_changed']:.0f}%",
                f"{row['seal_bytes'] / 1000:.0f}",
                f"{row['seconds']:.1f}",
            ]
        )
    return _grid(lines)
