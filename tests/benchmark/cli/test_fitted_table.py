"""Tables of every command that prints numbers of attacks say all of them at any width, in any encoding."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console, RenderableType

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.benchmark.cli.commands import check, compare, data, listing, mark, steal
from robustvox.benchmark.cli.commands.fitted_table import fitted_markdown, fitted_table, plain
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.studies.comparison import compare_models
from robustvox.benchmark.studies.frequency.tables import HEADINGS as BANDS
from robustvox.benchmark.studies.sanity.base import Result
from robustvox.benchmark.studies.stealing.tables import HEADINGS as STOLEN
from robustvox.datasets import CATALOG as DATASETS
from robustvox.datasets import open_dataset
from robustvox.datasets.verify import FOUND, CaseReport
from robustvox.models import CATALOG as MODELS
from robustvox.models.prompted import TARGETS

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


def words_of(text: str) -> str:
    """Without what breaks lines: what a terminal folds reads on."""
    return "".join(text.split())


WIDTHS = pytest.mark.parametrize(
    ("width", "encoding"), [(40, "utf-8"), (80, "ascii"), (80, "utf-8"), (250, "utf-8")]
)


def whole(shown_text: str, width: int, said: list[str]) -> None:
    """Every word is there, nothing is cut, no line is too long."""
    assert max(map(len, shown_text.splitlines())) <= width
    assert "\u2026" not in shown_text
    for text in said:
        assert words_of(text) in words_of(shown_text), text


def test_tables_are_made_in_two_files_alone() -> None:
    """So that no command prints one that these tests do not see."""
    folder = Path(compare.__file__).parent
    made = {path.name for path in folder.glob("*.py") if "rich.table" in path.read_text("utf-8")}
    assert made == {"fitted_table.py", "terminal_table.py"}


@WIDTHS
def test_the_registries(width: int, encoding: str) -> None:
    console, raw = terminal(width, encoding)
    listing.show(console)
    text = raw.getvalue().decode(encoding)
    said = [name for catalog in (MODELS, ATTACKS, TARGETS, DATASETS) for name in catalog]
    whole(text, width, [*said, "hippocampus 0.859 (0.85-0.87)", "0.91 M, 1.7 GFLOPs", "GB with gradient"])


@WIDTHS
def test_what_checks_found(width: int, encoding: str) -> None:
    plan = SimpleNamespace(dataset=SimpleNamespace(name="toy"), protocol=SimpleNamespace(name="robustvox-1"))
    model, attack = (
        SimpleNamespace(shown="my net", name="unet"),
        SimpleNamespace(spec="fgsm:eps=8/255,loss=dice"),
    )
    found = [
        Result(
            "C8",
            "gradient-masking",
            "gradients beat queries",
            "fail",
            0.25,
            "fail > 0.02",
            "a long " * 30,
            "C8:fail",
        ),
        Result("C9", "randomness", "equal inputs", "skip", None, "a rule", "not for noise", ""),
    ]
    console, raw = terminal(width, encoding)
    pair: Any = SimpleNamespace(plan=plan, model=model, attack=attack, volumes=[1, 2])
    text = shown(check._table(console, pair, found), console, raw)
    whole(
        text,
        width,
        [
            "fgsm:eps=8/255",
            "my net",
            "2 cases",
            "C8",
            "fail",
            "0.25",
            "fail > 0.02",
            "not for noise",
        ],
    )
    assert text.count("long") == 30  # however its lines are broken
    assert "a rule" not in text


@WIDTHS
def test_what_a_run_would_read(width: int, encoding: str) -> None:
    dataset = open_dataset("phantom")
    report = CaseReport(
        "a_case_with_a_very_long_name_that_goes_on", "validation", FOUND, (1, 71, 46, 37), (5.1, 4.97, 6.25), "sform",
        "mm", "RAS", ((1, 71, 46, 37), (5.1, 4.97, 6.25), "RAS"), ((-175.0, 250.0, "HU"),), (0.595,), (0, 1),
    )  # fmt: skip
    console, raw = terminal(width, encoding)
    data._show(console, dataset, ["validation"], [report])
    said = [
        "validation",
        report.id,
        "1 x 71 x 46 x 37",
        "5.1 x 4.97 x 6.25",
        "-175..250 HU",
        "59.5%",
        "sform",
    ]
    text = raw.getvalue().decode(encoding)
    table = text[: text.index("preparation")]
    whole(table, width, said)


@WIDTHS
def test_what_was_marked(width: int, encoding: str) -> None:
    console, raw = terminal(width, encoding)
    done = [
        mark.Marked("[red]scan[/red] of somebody with a long name.nii.gz", 0.9123, 0.1, 0.5, 12_345, 1.25)
    ]
    text = shown(mark._table(console, done), console, raw)
    whole(
        text,
        width,
        ["[red]scan[/red] of somebody with a long name.nii.gz", "0.912", "0.100", "50.0%", "12.3", "1.2"],
    )


@WIDTHS
def test_pages_of_ours(width: int, encoding: str) -> None:
    page = (RESULTS.parent / "marking" / "marking.md").read_text("utf-8").encode("ascii", "ignore").decode()
    console, raw = terminal(width, encoding)
    for part in fitted_markdown(console, page):
        console.print(part)
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    whole(
        raw.getvalue().decode(encoding),
        width,
        [plain(cell) for line in rows for cell in line.strip("|").split("|")],
    )


def test_a_table_over_one_number_of_cases_says_it() -> None:
    table = pd.DataFrame({"n_cases": [12, 12], "dice_clean": [0.8831, 0.8831]})
    assert steal._over(table) == ", 12 cases, clean Dice 0.883"
    assert steal._over(table.assign(n_cases=[12, 11])) == ", clean Dice 0.883"


def test_a_row_below_another_keeps_values_of_several_lines() -> None:
    console, raw = terminal(40)
    rows = [("unet", "phantom 0.9\nhippocampus 0.8", "x" * 60)]
    text = shown(fitted_table(console, "", ("", "zoo", ""), rows, fold=1), console, raw)
    assert "zoo phantom 0.9, hippocampus 0.8" in " ".join(text.split())
    whole(text, 40, ["unet", "x" * 60])
