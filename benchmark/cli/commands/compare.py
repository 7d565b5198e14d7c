"""The ``compare`` command: paired comparison on the terminal and as CSV."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from ...plan.attacks import brief
from ...records.sources import recorded_name
from ...show.model_labels import relabelled, shown_labels
from ...show.tables.markup import csv_text
from ...specs.names import printable
from ...specs.requests import CompareRequest
from ...specs.spec import CLEAN
from ...studies.comparison import COLUMNS, TEXT, compare_models
from ..codes import DONE
from .console import make_console
from .fitted_table import fitted_table
from .json_rows import json_rows


def compare_command(request: CompareRequest, console: Console | None = None) -> int:
    """Print the comparison of a request, and write it where asked; returns the exit code."""
    from ...records.reading import load_records

    dataset = recorded_name(request.out, request.dataset)
    folder = request.out / dataset / "records"
    records = load_records(folder)
    table = compare_models(
        relabelled(records, shown_labels(folder, records)),
        request.models,
        [_canonical(text) for text in request.attacks],
        protocol=request.protocol,
        metric=request.metric,
    )
    table.insert(0, "dataset", dataset)
    table = table[list(COLUMNS)]
    with json_rows(request.json) as emit:
        console = console or make_console()
        console.print(_view(table, console))
        rows: Any = table
        emit(rows.to_dict("records"))
    if request.csv is not None:
        request.csv.parent.mkdir(parents=True, exist_ok=True)
        request.csv.write_text(csv_text(table, TEXT), encoding="utf-8", newline="\n")
    return DONE


def _canonical(attack: str) -> str:
    if attack == CLEAN:
        return attack
    from ...plan.attacks import load_attack

    return load_attack(attack).spec


def _view(table: Any, console: Console) -> RenderableType:
    first = table.iloc[0]
    title = f"{first['model_a']} minus {first['model_b']}, {first['metric']}, {first['dataset']}, {first['protocol']}"
    models = printable(first["model_a"]), printable(first["model_b"])
    headings = ("attack", "n", *models, "difference", "95% interval", "p", "p Holm")
    rows = [
        (
            "clean" if row["attack"] == CLEAN else printable(brief(row["attack"])),
            str(row["n_cases"]),
            f"{row['mean_a']:.3f}",
            f"{row['mean_b']:.3f}",
            f"{row['difference']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}" if row["low"] == row["low"] else "-",
            f"{row['p_value']:.4f}",
            f"{row['p_holm']:.4f}",
        )
        for row in table.to_dict("records")
    ]
    return fitted_table(console, printable(title), headings, rows)
