"""Tables of every command that prints numbers of attacks say all of them at any width, in any encoding."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from robustvox.benchmark.cli.commands import compare
from robustvox.benchmark.cli.commands.fitted_table import fitted_table
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.studies.comparison import compare_models
from robustvox.benchmark.studies.frequency.tables import HEADINGS as BANDS
from robustvox.benchmark.studies.stealing.tables import HEADINGS as STOLEN

RESULTS = Path(__file__).resolve().parents[3] / "results" / "hippocampus" / "records"


def terminal(width: int, encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    return Console(file=file, width=width, highlight=False), raw


def shown(view: RenderableType, console: Console, raw: io.BytesIO) -> str:
    console.print(view)
    return raw.getvalue().decode()


@pytest.mark.parametrize("width", [40, 80, 250])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("headings", [BANDS, *STOLEN.values()], ids=["frequency", *STOLEN])
def test_every_heading_and_value_is_there(headings, width: int, encoding: str) -> None:
    rows = [[f"value{row}{place}" for place in range(len(headings))] for row in range(3)]
    console, raw = terminal(width, encoding)
    text = shown(fitted_table(console, "unet under pgd:eps=8/255", headings, rows), console, raw)
    assert max(map(len, text.splitlines())) <= width
    whole = " ".join(text.split())
    for word in (*(value for row in rows for value in row), "unet under pgd:eps=8/255", *headings):
        assert " ".join(word.split()) in whole


@pytest.mark.parametrize("width", [40, 80, 250])
def test_a_comparison_names_attack_n_and_both_models(width: int) -> None:
    records = load_records(RESULTS)
    table = compare_models(records, ["unet", "segresnet"], [], protocol="robustvox-1", metric="dice")
    table.insert(0, "dataset", "hippocampus")
    table = table.head(5)
    console, raw = terminal(width)
    text = shown(compare._view(table, console), console, raw)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    whole = " ".join(text.split())
    for row in table.to_dict("records"):
        for said in (
            f"{row['mean_a']:.3f}",
            f"{row['mean_b']:.3f}",
            f"{row['difference']:+.3f}",
            str(row["n_cases"]),
        ):
            assert said in whole
    assert "unet" in whole
    assert "segresnet" in whole


def test_a_line_a_row_where_it_fits() -> None:
    console, raw = terminal(80)
    text = shown(fitted_table(console, "t", ("attack", "n"), [("pgd", "3"), ("gn", "4")]), console, raw)
    assert len(text.splitlines()) == 4
