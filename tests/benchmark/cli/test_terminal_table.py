"""Tables in terminals of any width say what was attacked, how it ended, over how many cases, and with which flags."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from robustvox.benchmark.cli.commands.terminal_table import results_table
from robustvox.benchmark.plan.attacks import brief
from robustvox.benchmark.records.reading import Records, load_records
from robustvox.benchmark.show.tables import results

SECOND_LINE = ("HD95", "gone", "Linf", "L2", "dB", "SSIM")


RESULTS = Path(__file__).resolve().parents[3] / "results" / "hippocampus" / "records"


@pytest.fixture(scope="module")
def records() -> Records:
    """What is committed of two models under three attacks, one of them with a long name."""
    records = load_records(RESULTS)
    costs = records.costs
    transferred = costs[costs["surrogate"] != costs["target"]]
    attacks = sorted({*transferred["attack"]} - {"none"}, key=len)
    kept = {attacks[0], attacks[len(attacks) // 2], attacks[-1], "none"}
    models = {"unet", "segresnet", "swin_unetr"}

    def chosen(frame):
        return frame[
            frame["attack"].isin(kept) & frame["surrogate"].isin(models) & frame["target"].isin(models)
        ]

    return Records(chosen(records.scores), chosen(records.costs), chosen(records.failures))


def shown(table, width: int, *, encoding: str = "utf-8", color: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    console = Console(
        file=file, width=width, force_terminal=color or None, no_color=not color, highlight=False
    )
    console.print(results_table(table, "toy, robustvox-1", console))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("which", [results.white_box, results.transfer])
@pytest.mark.parametrize("width", [60, 80, 100, 250])
def test_nothing_that_a_reader_must_know_is_cut(records, which, width):
    table = which(records).assign(flags="unmatched;C8:fail")
    text = shown(table, width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    whole = re.sub(r"\s+", "", text)
    for row in table.to_dict("records"):
        number = f"{row['dice_adv']:.3f}"
        found = [line for line in lines if re.search(rf"\b{re.escape(number)}\b", line)]
        assert any(f"{row['dice_clean']:.3f}" in line and str(row["n_cases"]) in line for line in found)
        assert str(row["surrogate"]) in text
        assert str(row["target"]) in text
        assert f"{row['dice_adv_low']:.2f}-{row['dice_adv_high']:.2f}" in text
        assert f"{row['l2']:.2f}" in text
        assert brief(row["attack"])[:12] in whole
    assert whole.count("unmatched") == whole.count("C8:fail") == len(table) > 3
    for word in ("attack", "n", "clean", "attacked", "interval", "flags", *SECOND_LINE):
        assert word in text


def test_one_line_a_row_where_it_fits(records):
    table = results.white_box(records)
    assert len(shown(table, 250).splitlines()) == len(table) + 3
    assert len(shown(table, 80).splitlines()) > 2 * len(table)


def test_terminals_without_unicode_and_with_color(records):
    table = results.white_box(records)
    assert "HD95" in shown(table, 80, encoding="ascii")
    colored = shown(table, 80, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == shown(table, 80)


def test_names_are_text_not_markup(records):
    table = results.white_box(records).assign(
        surrogate="[red]net[/red]", target="[red]net[/red]", flags="[b]x"
    )
    for width in (80, 250):
        text = shown(table, width)
        assert "[red]net[/red]" in text
        assert "[b]x" in text


def test_failures_are_counted_beside_n(records):
    table = results.white_box(records).assign(failed=2)
    for width in (80, 250):
        assert "(2 failed)" in shown(table, width)
