"""The table of the page on the ensemble's strength follows from the rows beside it, and these from the records."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE, ROWS = ROOT / "docs" / "strength.md", ROOT / "docs" / "strength.csv"
RECORDS = ROOT / "results" / "hippocampus" / "records" / "robustvox-1"
BEGIN, END = "--render docs/strength.csv -->\n", "<!-- end of table -->"


@pytest.fixture
def strength(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "performance"))
    yield importlib.import_module("strength")
    for name in ("strength", "long_attacks"):
        sys.modules.pop(name)


def test_the_table_follows_from_the_rows(strength):
    shown = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == strength.comparison(strength.read(ROWS))


def test_what_the_ensemble_left_is_what_the_records_say(strength):
    rows = [row for row in strength.read(ROWS) if row.attack == "ensemble"]
    assert len({row.model for row in rows}) == 11
    for row in rows:
        lines = (RECORDS / row.model / "ensemble.jsonl").read_text("utf-8").splitlines()
        units = [
            unit
            for line in lines
            if (unit := json.loads(line))["kind"] == "unit" and unit["case"] == row.case
        ]
        assert [round(sum(unit["dice"]) / 2, 6) for unit in units] == [row.dice], row
