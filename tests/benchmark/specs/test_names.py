"""Names of somebody else on a terminal, in a path and in a cell."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.sources import name_in
from robustvox.benchmark.records.volumes import case_slug
from robustvox.benchmark.show.tables.markup import csv_text
from robustvox.benchmark.specs.names import component, folder_name, printable

CODES = "\x1b\x07\x9b\u202e\u2066\u200b\n\r"


@given(st.text())
def test_no_code_reaches_a_terminal(text):
    shown = printable(text + CODES)
    assert shown.isascii() or all(c.isprintable() or c in " \t" or ord(c) > 127 for c in shown)
    assert not set(shown) & set(CODES)
    shown.encode("utf-8")
    assert printable(shown) == shown


@given(
    st.text()
    | st.sampled_from(["..", ".", "", "a/b", "con", "nul.txt", "x" * 300, "é" * 200, "\ud800", "a\0b"])
)
def test_a_name_is_one_folder(name):
    for safe in (component(name), folder_name(name)):
        assert safe not in ("", ".", "..")
        assert not set(safe) & set("/\\\0\n")
        assert len(safe.encode("utf-8")) <= 140
    assert folder_name(folder_name(name)) == folder_name(name)


NAMES = st.text(max_size=8) | st.sampled_from(
    ["Case1", "case1", "CASE1", "MyNet", "mynet", "a b", "a_b", "A_b", "con"]
)


@given(NAMES, NAMES)
def test_names_keep_files_of_their_own_where_case_is_lost(one, other):
    for name_of in (component, case_slug):
        assert (name_of(one).casefold() == name_of(other).casefold()) == (one == other)


def test_a_list_called_by_dots_stays_inside_the_results(tmp_path):
    assert name_in(tmp_path, "..", tmp_path / "...csv").startswith("name-")


def test_a_cell_behind_a_line_break_is_no_formula():
    import pandas as pd

    text = csv_text(pd.DataFrame({"name": ["\n=1+1", "\r\n@SUM(1)", "\t-1", "plain"]}), ["name"])
    assert [line[:2] for line in text.splitlines()[1:]] == ["' ", "' ", "'\t", "pl"]


@pytest.mark.parametrize(
    "name", ["\x1b[31mred\x1b[0m", ":bomb:", "[/]", "[red]x[/red]", "\u202egnp.exe", "a\nb", "\t=1"]
)
def test_a_hostile_class_and_dataset_is_shown_as_text(msd_folder, capsys, name):
    root = msd_folder(1, name=name.replace("/", "_"))
    meta = json.loads((root / "dataset.json").read_text())
    meta["labels"]["1"] = name
    (root / "dataset.json").write_text(json.dumps(meta))
    assert main(["data", "--dataset", str(root), "--split", "all"]) == 0
    shown = capsys.readouterr()
    assert not set(shown.out + shown.err) & set(CODES.replace("\n", ""))
    assert "\U0001f4a3" not in shown.out
