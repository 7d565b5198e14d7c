"""The tables of the frequency study: ``cases.csv.gz``, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...metrics.statistics import shown_intervals, with_interval
from ...plan.attacks import brief
from ...records.packed import write_packed
from ...records.patients import patients_of_cases, read_patients
from ...records.reading import Frame
from ...records.writing import replace_file
from ...show.tables.cases import KEYS as GROUP
from ...show.tables.markup import csv_text, markdown_table, markdown_text
from ...specs.names import printable
from ...specs.protocols import DEFAULT_PROTOCOL
from ...specs.spec import UsageError
from ..rows import read_rows
from .bands import Band

CASES = "cases.csv.gz"

WHOLE = Band("whole", 0.0, float("inf"))


BAND = ["rescale", "kind", "band", "low", "high"]


_ORDER = ("whole", "low", "high", "cube", "radial")


TEXT = (*GROUP, "case", "rescale", "kind", "band")
"""Columns of text; names come from records and are escaped."""


@dataclass(frozen=True, kw_only=True)
class BandScore:
    """A row of ``cases.csv.gz``: one band of the perturbation of one case, on one target.

    Attributes:
        dataset, protocol, surrogate, surrogate_sha256, target, target_sha256, attack, seed, case: what was crossed.
        rescale: norm that the band got back.
        kind, band, low, high: the band, with its edges as shares of Nyquist.
        share: of all frequencies that the band holds.
        energy: of the perturbation that the band holds, as a share.
        linf, l2: of what was scored, in intensity units.
        dice_clean, dice_adv, dice: of the clean image, under the whole perturbation, and under this band of it.
    """

    dataset: str
    protocol: str
    surrogate: str
    surrogate_sha256: str
    target: str
    target_sha256: str
    attack: str
    seed: int
    case: str
    rescale: str
    kind: str
    band: str
    low: float
    high: float
    share: float
    energy: float
    linf: float
    l2: float
    dice_clean: float
    dice_adv: float
    dice: float


COLUMNS = tuple(field.name for field in fields(BandScore))


def band_name(band: Band) -> str:
    """Name of a band as the tables have it."""
    return "all" if band is WHOLE else band.name


def merge(old: Frame, new: Frame) -> Frame:
    """Rows of both, sorted; of two for the same case and band the new one."""
    both: Frame = pd.concat([frame for frame in (old, new) if len(frame)] or [old])
    identity = [*GROUP, "seed", "case", "rescale", "kind", "band"]
    both = both.drop_duplicates(identity, keep="last")
    order = both["kind"].map({kind: place for place, kind in enumerate(_ORDER)})
    both = both.assign(order=order).sort_values(
        [*GROUP, "rescale", "seed", "case", "order", "low", "high"], kind="stable", ignore_index=True
    )
    return both[list(COLUMNS)]


def read_cases(path: Path) -> Frame:
    """The rows of ``cases.csv.gz``."""
    return read_rows(path, COLUMNS, TEXT)


def summarize(cases: Frame, patients: Mapping[str, str] | None = None) -> Frame:
    """A row per attack and band: means over cases, with the 95% bootstrap interval of the Dice, patients resampled.

    ``effect`` is the share of the attack's loss of Dice that the band alone causes; empty where the attack loses
    less than 0.01.
    """
    numbers: Any = list(COLUMNS[-7:])
    per_case = cases.groupby([*GROUP, *BAND, "case"], as_index=False, sort=False)[numbers].mean()
    rows = []
    for identity, group in per_case.groupby([*GROUP, *BAND], sort=False):
        known = group.dropna(subset="dice")
        dice, whose = known["dice"].to_numpy(), patients_of_cases(known["case"].tolist(), patients or {})
        low, high = (
            shown_intervals(dice[None], patients=whose)
            if len(dice)
            else (np.array([np.nan]), np.array([np.nan]))
        )
        means = group[numbers].mean().to_dict()
        loss = means["dice_clean"] - means["dice_adv"]
        effect = (means["dice_clean"] - means["dice"]) / loss if loss >= 0.01 else float("nan")
        interval = {"dice_low": float(low[0]), "dice_high": float(high[0]), "effect": effect}
        count = {"n_cases": len(group)}
        rows.append({**dict(zip([*GROUP, *BAND], identity, strict=True)), **count, **means, **interval})
    return pd.DataFrame(rows)


def keep(folder: Path, measured: Frame) -> Frame:
    """Add rows to ``cases.csv.gz``, each replacing the one of the same case and band, and return all.

    Raises:
        UsageError: if what is there are no rows of this study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CASES
    # As the file will hold them, so that a row measured again finds its old one.
    measured = measured.assign(**{name: [printable(cell) for cell in measured[name]] for name in TEXT})
    try:
        cases = merge(read_cases(path), measured) if path.exists() else merge(measured, measured)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"expected the rows of `frequency` in {path}, found {error}; remove the file"
        ) from error
    write_packed(path, csv_text(cases, TEXT))
    return cases


def write(folder: Path) -> Frame:
    """Derive ``bands.csv|md`` from ``cases.csv.gz``, and return all bands."""
    table = summarize(read_cases(folder / CASES), read_patients(folder))
    replace_file(folder / "bands.csv", csv_text(table, TEXT))
    replace_file(folder / "bands.md", _markdown(table))
    return table


HEADINGS = ("band (1/96)", "share", "energy", "L-inf (1/255)", "L2", "Dice (95% interval)", "effect")


def rounded(rows: Frame) -> list[list[str]]:
    """Rounded cells of the bands of one attack."""
    return [
        [
            row["band"],
            f"{100 * row['share']:.3g}%",
            f"{100 * row['energy']:.1f}%",
            f"{255 * row['linf']:.1f}",
            f"{row['l2']:.2f}",
            with_interval(row["dice"], row["dice_low"], row["dice_high"]),
            "-" if np.isnan(row["effect"]) else f"{round(100 * row['effect'])}%",
        ]
        for row in rows.to_dict("records")
    ]


def title_of(row: Frame) -> str:
    """One attack in words: on whom, on how many cases, and what it did to the Dice."""
    on = (
        row["surrogate"]
        if row["surrogate"] == row["target"]
        else f"{row['surrogate']}, scored on {row['target']}"
    )
    scaled = (
        "" if row["rescale"] == "none" else f", every band rescaled to the {row['rescale']} norm of the whole"
    )
    under = "" if row["protocol"] == DEFAULT_PROTOCOL else f" under {row['protocol']}"
    return (
        f"{brief(row['attack'])} on {on}: {row['n_cases']} cases of {row['dataset']}{under}, clean Dice "
        f"{row['dice_clean']:.3f}, attacked {row['dice_adv']:.3f}{scaled}"
    )


def _markdown(table: Frame) -> str:
    parts = []
    for _, rows in table.groupby([*GROUP, "rescale"], sort=False):
        cells = [[markdown_text(cell) for cell in line] for line in rounded(rows)]
        parts.append(f"## {markdown_text(title_of(rows.iloc[0]))}\n\n{markdown_table(HEADINGS, cells)}")
    return "\n".join(parts)
