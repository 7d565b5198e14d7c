"""The page of protocols names every switch, and its tables follow from the numbers beside it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from robustvox.benchmark.specs.protocols import PROTOCOLS, SWITCHES, find_protocol

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("build_protocols")
    sys.modules.pop("build_protocols")


def test_the_page_names_every_switch_and_flag():
    text = (DOCS / "protocols.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| (?:view|attack|volume|score) \|", text, re.M) == list(SWITCHES)
    assert all(f"`{flag}`" in text for flag in PROTOCOLS["bmvc2024"].flags)
    for name in re.findall(r"--protocol (\S+)", text):
        assert find_protocol(name.strip("`")).name == name.strip("`")


def test_the_tables_follow_from_the_numbers(build):
    text = build.PAGE.read_text(encoding="utf-8")
    assert build.page(text, build.numbers()) == text
    changed = build.numbers()
    changed["dice"] *= 0.9
    assert build.page(text, changed) != text


def test_end_to_end_is_no_weaker_than_tiles_on_phantoms_larger_than_the_window(build):
    measured = build.numbers()
    rows = measured[(measured["dataset"] == "phantom") & (measured["attack"] == "pgd")]
    rows = rows[(rows["target"] == build.SURROGATE) & (rows["scored_as"].str.startswith("robustvox-1"))]
    dice = rows.pivot_table(index="case", columns=["protocol", "scored_as"], values="dice")
    ours = dice["robustvox-1", "robustvox-1"].mean()
    assert ours < dice["robustvox-1:tiling=true", "robustvox-1:tiling=true"].mean()
    assert ours < dice["bmvc2024", "robustvox-1"].mean()
