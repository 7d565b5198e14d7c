"""Tables T1 to T3 from the rows of patients: pure functions, nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from ...metrics.statistics import shown_intervals, with_interval
from ...records.patients import patients_of_cases, read_patients
from ...records.reading import Frame
from ...show.tables.markup import csv_text, markdown_text
from .rows import FUNCTION_FILE, TRANSFER_FILE, FunctionRow, Rows, TransferRow
from .study import VICTIM, WHITE_BOX
from .thefts import PLAIN

T1 = (
    "row", "queries", "n_cases", "n_seeds", "dice", "dice_low", "dice_high",
    "agreement", "agreement_low", "agreement_high", "worst_seed_agreement", "empty",
)  # fmt: skip
T2 = (
    "surrogate", "attack", "eps", "n_cases", "n_seeds", "dice_clean", "dice_adv", "dice_adv_low", "dice_adv_high",
    "drop", "drop_low", "drop_high", "least_seed_drop", "transfer_ratio",
)  # fmt: skip


def function_table(cases: Frame, whose: Mapping[str, str] = MappingProxyType({})) -> Frame:
    """T1: per row mean Dice and agreement with 95% intervals over patients (seeds averaged per patient first).

    ``worst_seed_agreement`` is the lowest mean of one seed; ``empty`` counts predictions without foreground.
    """
    rows = []
    for subject, group in _in_order(cases, "subject"):
        patients = group.groupby("case")[["dice", "agreement"]].mean()
        means = patients.mean()
        rows.append(
            {
                "row": subject,
                "queries": int(group["queries"].max()),
                "n_cases": len(patients),
                "n_seeds": group["seed"].nunique(),
                **_interval("dice", patients["dice"], whose),
                **_interval("agreement", patients["agreement"], whose),
                "worst_seed_agreement": float(group.groupby("seed")["agreement"].mean().min()),
                "empty": int(group["empty"].sum()),
                "dice": float(means["dice"]),
                "agreement": float(means["agreement"]),
            }
        )
    return pd.DataFrame(rows, columns=list(T1))


def transfer_table(cases: Frame, whose: Mapping[str, str] = MappingProxyType({})) -> Frame:
    """T2: per surrogate and attack the victim's Dice and drop; the ratio to the drop of the same attack in the white box.

    Noise is compared with ``smooth`` (smoothed noise) or ``pgd`` (sign noise) of the same radius.
    """
    cases = cases.assign(
        drop=cases["dice_clean"] - cases["dice_adv"], kind=cases["attack"].str.split(":").str[0]
    )
    white = cases[cases["surrogate"] == WHITE_BOX].groupby(["kind", "eps"])["drop"].mean()
    like = {"smooth_noise": "smooth", "uniform": "pgd"}
    rows = []
    for (surrogate, kind), group in _in_order(cases, "surrogate", "kind"):
        for eps, same in group.groupby("eps"):
            patients = same.groupby("case")[["dice_clean", "dice_adv", "drop"]].mean()
            reference = white.get((like.get(kind, kind), eps), np.nan)
            drop = float(patients["drop"].mean())
            rows.append(
                {
                    "surrogate": surrogate,
                    "attack": kind,
                    "eps": float(eps),
                    "n_cases": len(patients),
                    "n_seeds": same["seed"].nunique(),
                    "dice_clean": float(patients["dice_clean"].mean()),
                    **_interval("dice_adv", patients["dice_adv"], whose),
                    **_interval("drop", patients["drop"], whose),
                    "least_seed_drop": float(same.groupby("seed")["drop"].mean().min()),
                    "transfer_ratio": drop / float(reference) if reference > 0 else float("nan"),
                }
            )
    return pd.DataFrame(rows, columns=list(T2))


def queries_table(table: Frame) -> Frame:
    """T3: agreement against queries, from the rows of T1 whose name starts with a number and the plain theft."""
    curve = table[table["row"].str.match(r"\d+ queries") | (table["row"] == PLAIN)]
    return curve.sort_values("queries", kind="stable", ignore_index=True)


def _interval(name: str, values: Any, patients: Mapping[str, str]) -> dict[str, float]:
    """Mean over cases, and 95% bootstrap interval with patients resampled; ``values`` have the cases as index."""
    data = values.to_numpy(dtype=float)
    low, high = shown_intervals(data[None], patients=patients_of_cases(list(values.index), patients))
    return {name: float(data.mean()), f"{name}_low": float(low[0]), f"{name}_high": float(high[0])}


_FIRST = (
    VICTIM,
    WHITE_BOX,
    "stolen",
    "two rounds",
    "independent",
    "answers",
    "",
    "smoothed sign noise",
    "sign noise",
)


def _in_order(cases: Frame, first: str, *more: str):
    """Groups, the victim first, then the thefts, then what a vendor may do, noise last."""

    def place(key: Any) -> tuple[int, str]:
        name = key if isinstance(key, str) else str(next(iter(key)))
        found = [i for i, start in enumerate(_FIRST) if start and name.startswith(start)]
        return (found[0] if found else _FIRST.index(""), "")

    groups = list(cases.groupby([first, *more] if more else first, sort=False))
    return sorted(groups, key=lambda item: place(item[0]))


def tables(folder: Path) -> dict[str, Frame]:
    """``function``, ``transfer`` and ``queries`` from the files in a folder."""
    function = Rows(folder / FUNCTION_FILE, FunctionRow).read()
    transfer = Rows(folder / TRANSFER_FILE, TransferRow).read()
    whose = read_patients(folder)
    first = function_table(function, whose)
    return {"function": first, "transfer": transfer_table(transfer, whose), "queries": queries_table(first)}


_FUNCTION = (
    "row",
    "seeds",
    "queries",
    "Dice (95% interval)",
    "agreement (95% interval)",
    "worst seed",
    "empty",
)

HEADINGS = {
    "function": _FUNCTION,
    "transfer": (
        "surrogate",
        "seeds",
        "attack",
        "eps",
        "victim's Dice (95% interval)",
        "drop",
        "least seed",
        "ratio",
    ),
    "queries": _FUNCTION,  # the same rows, by how often was asked
}


def cells(name: str, table: Frame) -> list[list[str]]:
    """Rounded cells of one table for people, in the order of :data:`HEADINGS`."""
    if name == "transfer":
        return [
            [
                markdown_text(r["surrogate"]),
                str(r["n_seeds"]),
                markdown_text(r["attack"]),
                f"{255 * r['eps']:g}/255",
                _with(r, "dice_adv"),
                f"{r['drop']:.3f}",
                f"{r['least_seed_drop']:.3f}",
                "-" if np.isnan(r["transfer_ratio"]) else f"{r['transfer_ratio']:.2f}",
            ]
            for r in table.to_dict("records")
        ]
    return [
        [
            markdown_text(r["row"]),
            str(r["n_seeds"]),
            str(r["queries"]),
            _with(r, "dice"),
            _with(r, "agreement"),
            f"{r['worst_seed_agreement']:.3f}",
            str(r["empty"]),
        ]
        for r in table.to_dict("records")
    ]


def _with(row: dict[str, Any], name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a page."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rule, *lines))


def write(folder: Path) -> dict[str, Frame]:
    """Write ``function|transfer|queries.csv`` and ``tables.md`` beside the rows; returns the tables."""
    made = tables(folder)
    parts = []
    for name, table in made.items():
        (folder / f"{name}.csv").write_text(
            csv_text(table, ("row", "surrogate", "attack")), encoding="utf-8", newline=""
        )
        parts.append(f"## {name}\n\n{markdown(HEADINGS[name], cells(name, table))}")
    (folder / "tables.md").write_text("\n".join(parts), encoding="utf-8", newline="")
    return made
