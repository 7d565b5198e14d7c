"""The table that goes into a paper: attacks down, models across, Dice with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...records.reading import Frame
from ...specs.knobs import KNOBS
from ...specs.matched import MatchedSpec, parse_spec
from ...specs.spec import CLEAN, format_value
from . import views
from .best import BEST, Marks
from .markup import latex_text, markdown_table, markdown_text


class Summary:
    """Compact view of the white-box rows of a dataset.

    The clean row has the best and the ties by clean Dice. Labels of attacks show their budget, and of the other
    parameters those in which the rows of one attack differ.

    Args:
        table: white-box rows, columns as in ``white_box.csv``.
        marks: from :func:`robustvox.benchmark.show.tables.best.best_models`.
        notes: what is to be said of the data.
    """

    def __init__(self, table: Frame, marks: Marks, notes: Sequence[str] = ()) -> None:
        self._marks, self._notes = marks, notes
        self._rows = table.to_dict("records")
        self._models = sorted({row["surrogate"] for row in self._rows})
        self._labels = labels({row["attack"] for row in self._rows})
        self._found = {(row["protocol"], row["attack"], row["surrogate"]): row for row in self._rows}

    def markdown(self) -> str:
        """As Markdown."""
        heads = ["protocol", "attack", *map(markdown_text, self._models)]
        cells = self._cells(markdown_text, views.markdown_marked, "{0} ({1} to {2})")
        return markdown_table(heads, cells, left=(0, 1)) + views.markdown_notes(self._noted, self._notes)

    def latex(self) -> str:
        """As a booktabs tabular."""
        heads = ["protocol", "attack", *map(latex_text, self._models)]
        cells = self._cells(latex_text, views.latex_marked, "{0} ({1}--{2})")
        return views.tabular("ll" + "r" * len(self._models), heads, cells, self._noted, self._notes)

    @property
    def _noted(self) -> bool:
        return any(mark == BEST and key[2] == key[3] for key, mark in self._marks.items())

    def _cells(
        self, text: Callable[[str], str], marked: Callable[[str, str], str], shape: str
    ) -> list[list[str]]:
        lines = []
        for protocol in sorted({row["protocol"] for row in self._rows}):
            mine = [row for row in self._rows if row["protocol"] == protocol]
            clean = [self._clean(mine, model, marked) for model in self._models]
            lines.append([text(protocol), "clean", *clean])
            for attack in sorted({row["attack"] for row in mine}):
                cells = [self._cell(protocol, attack, model, marked, shape) for model in self._models]
                lines.append([text(protocol), text(self._labels[attack]), *cells])
        return lines

    def _clean(self, rows: list[dict[str, Any]], model: str, marked: Callable[[str, str], str]) -> str:
        """Clean Dice over the most cases that any attack of the model has."""
        mine = [row for row in rows if row["surrogate"] == model and row["dice_clean"] == row["dice_clean"]]
        if not mine:
            return "n/a"
        row = max(mine, key=lambda row: row["n_cases"])
        key = (row["dataset"], row["protocol"], model, model, CLEAN)
        return marked(f"{row['dice_clean']:.3f}", self._marks.get(key, ""))

    def _cell(
        self, protocol: str, attack: str, model: str, marked: Callable[[str, str], str], shape: str
    ) -> str:
        row = self._found.get((protocol, attack, model))
        if row is None:
            return ""
        if row["dice_adv"] != row["dice_adv"]:
            return "n/a"
        bounds = [f"{row[name]:.3f}" for name in ("dice_adv", "dice_adv_low", "dice_adv_high")]
        key = (row["dataset"], protocol, model, model, attack)
        known = row["dice_adv_low"] == row["dice_adv_low"]
        return marked(shape.format(*bounds) if known else bounds[0], self._marks.get(key, ""))


def labels(specs: set[str]) -> dict[str, str]:
    """Short and unambiguous names of canonical attack specs.

    Example:
        >>> labels({"pgd:eps=8/255,loss=ce,steps=20", "pgd:eps=8/255,loss=dice,steps=20", "fgsm:eps=8/255"})
        {'fgsm:eps=8/255': 'fgsm eps=8/255', 'pgd:eps=8/255,loss=ce,steps=20': 'pgd eps=8/255 loss=ce', \
'pgd:eps=8/255,loss=dice,steps=20': 'pgd eps=8/255 loss=dice'}
    """
    parsed = {spec: parse_spec(spec) for spec in sorted(specs)}
    alike: dict[tuple[str, str], list[str]] = {}
    for spec, (name, _, matched) in parsed.items():
        alike.setdefault(
            (name, f"@{matched.on}~{matched.tolerance}={_name(matched)}" if matched else ""), []
        ).append(spec)
    short = {}
    for (name, match), group in alike.items():
        pairs = {spec: {(k, format_value(v)) for k, v in parsed[spec][1].items()} for spec in group}
        shared = set.intersection(*pairs.values())
        for spec in group:
            kept = [f"{k}={v}" for k, v in sorted(pairs[spec]) if (k, v) not in shared or _is_budget(k, v)]
            short[spec] = " ".join([name, *kept, *([match] if match else [])])
    counts = list(short.values())
    return {spec: label if counts.count(label) == 1 else spec for spec, label in sorted(short.items())}


def _name(matched: MatchedSpec) -> str:
    return parse_spec(matched.reference).name


def _is_budget(name: str, value: str) -> bool:
    return name in KNOBS and value != "none"
