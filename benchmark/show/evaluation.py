"""What :func:`~robustvox.benchmark.evaluate` found, as an object to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..records.reading import Frame, Records
from ..specs.spec import CLEAN
from .labels import attack_names
from .tables.cases import per_case, with_hashes
from .tables.results import both

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_ROLES = ["dataset", "protocol", "surrogate", "target", "attack", "case", "patient"]
_MEASURED = [
    *("dice", "hd95_mm", "nsd", "missing", "hallucinated"),
    *("linf", "l2", "psnr", "ssim", "forwards", "backwards", "seconds"),
]
_CLASS = ["class_id", "class_name", "dice", "hd95_mm", "nsd", "status"]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Tables of an evaluation, and what went wrong.

    Shows itself: as text in a terminal, as a table in a notebook.

    Attributes:
        table: one row per surrogate, target and attack; means over cases, columns as in ``white_box.csv``.
        per_case: one row per case as well, also of the clean images (attack ``none``); means over classes.
        per_class: one row per case and class.
        failures: a line for each case that failed, with its reason.

    Example:
        >>> from pathlib import Path
        >>> from robustvox.benchmark import load_records
        >>> evaluation_of(load_records(Path("no/such/folder")))
        nothing was scored
    """

    table: DataFrame
    per_case: DataFrame
    per_class: DataFrame
    failures: tuple[str, ...] = ()

    def __getitem__(self, columns: Any) -> Any:
        """Columns of :attr:`table`."""
        return self.table[columns]

    def plot(self) -> Figure:
        """Clean and attacked Dice of every row with 95% intervals over patients.

        Raises:
            ValueError: nothing was scored.
        """
        from .figures.bars import drop_chart

        figure = drop_chart(self.table)
        if figure is None:
            raise ValueError("expected a row with a Dice, found none; look at .failures")
        return figure

    def summary(self) -> DataFrame:
        """The columns people ask for first, as text: model, attack, cases, clean and attacked Dice, L-inf, flags."""
        from pandas import DataFrame

        rows = self.table.to_dict("records")
        names = attack_names(Counter(self.table["attack"])) if rows else {}
        return DataFrame([_line(row, names[row["attack"]].label) for row in rows])

    def __repr__(self) -> str:
        lines = [self.summary().to_string(index=False)] if len(self.table) else ["nothing was scored"]
        return "\n".join([*lines, *(f"failed: {failure}" for failure in self.failures)])

    def _repr_html_(self) -> str:
        from markupsafe import escape

        table = self.summary().to_html(index=False, border=0, escape=True) if len(self.table) else ""
        failed = "".join(f"<li>{escape(failure)}</li>" for failure in self.failures)
        failures = f"<p>Failed cases:</p><ul>{failed}</ul>" if failed else ""
        return f'<div style="overflow-x:auto;max-width:100%">{table or "<p>Nothing was scored.</p>"}{failures}</div>'


def evaluation_of(records: Records, failures: Iterable[str] = ()) -> Evaluation:
    """The tables of records.

    Args:
        records: of one evaluation, whatever was recorded before in the same folder included.
        failures: one line each.
    """
    from pandas import concat

    failures = tuple(failures)
    table = concat(both(records), ignore_index=True)
    table.attrs["failures"] = failures
    cases: Frame = with_hashes(per_case(records), records)
    units = records.costs[["unit", *_ROLES[:-1], "surrogate_sha256", "target_sha256"]]
    classes = with_hashes(units.merge(records.scores[["unit", *_CLASS]], on="unit"), records)
    return Evaluation(
        table,
        _sorted(cases[[*_ROLES, *_MEASURED]]),
        _sorted(classes[[*_ROLES[:-1], *_CLASS]]),
        failures,
    )


def _sorted(rows: Frame) -> Frame:
    """Clean images first, then by attack, model and case."""
    attacked = rows["attack"] != CLEAN
    keys = [name for name in ("attack", "surrogate", "target", "case", "class_id") if name in rows]
    rows = rows.assign(attacked=attacked).sort_values(["attacked", *keys], kind="stable", ignore_index=True)
    return rows.drop(columns="attacked")


def _line(row: dict[str, Any], attack: str) -> dict[str, str]:
    same = row["surrogate"] == row["target"]
    model = row["surrogate"] if same else f"{row['surrogate']} → {row['target']}"
    return {
        "model": str(model),
        "attack": attack,
        "cases": f"{row['n_cases']}" + (f", {row['failed']} failed" if row["failed"] else ""),
        "clean Dice": _number(row["dice_clean"]),
        "attacked Dice": _attacked(row),
        "HD95 mm": _number(row["hd95_adv_mm"], 1),
        "L-inf": "n/a" if row["linf"] != row["linf"] else f"{255 * row['linf']:.3g}/255",
        "flags": str(row["flags"]).replace(";", ", "),
    }


def _attacked(row: dict[str, Any]) -> str:
    """With its interval, where there are patients enough for one."""
    low, high = row["dice_adv_low"], row["dice_adv_high"]
    shown = _number(row["dice_adv"])
    return shown if low != low else f"{shown} ({_number(low)}-{_number(high)})"


def _number(value: float, digits: int = 2) -> str:
    return "n/a" if value != value else f"{value:.{digits}f}"
