"""What the command line answers before it computes: who it is, how it is used, and what it refuses in one line."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
from collections import Counter
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from robustvox.benchmark.cli import app, main
from robustvox.benchmark.specs import requests

COMMANDS = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]


@pytest.mark.parametrize("before", [[], ["run"], ["compare"]])
def test_every_command_says_which_version_it_is(before, capsys):
    assert main([*before, "--version"]) == 0
    assert capsys.readouterr().out == f"robustvox {importlib.metadata.version('robustvox')}\n"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_h_is_help(command, capsys):
    before = [] if command is None else [command]
    shown = []
    for flag in ("-h", "--help"):
        assert main([*before, flag]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "Usage:" in shown[0]
    assert "-h" in shown[0]


@pytest.mark.parametrize(
    ("called", "shown"),
    [("/usr/bin/robustvox", "robustvox"), ("benchmark/__main__.py", "python -m benchmark")],
)
def test_usage_names_the_program_as_it_was_called(called, shown, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert main(["run", "-h"]) == 0
    assert f"Usage: {shown} run" in capsys.readouterr().out


def _refused(capsys, arguments: list[str], code: int = 2) -> str:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: expected ")
    assert error.count("\n") == 1
    return error


ASKED = ["--model", "unet", "--attack", "fgsm", "--no-report"]


@pytest.mark.parametrize("command", ["run", "check", "frequency", "suite"])
@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_a_file_is_no_folder_of_results(command, below, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    asked = {"suite": ["--model", "unet"], "run": ASKED}.get(command, ASKED[:4])
    error = _refused(capsys, [command, *asked, "--out", str(tmp_path / "file" / below)], 3)
    assert f"found a file at {tmp_path / 'file'}; give another --out" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_no_file_system_takes_is_one_line(tmp_path, capsys):
    error = _refused(capsys, ["run", *ASKED, "--out", str(tmp_path / ("a" * 300) / "below")], 3)
    assert "give another --out" in error


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path, capsys, monkeypatch
):
    # An administrator may write anywhere, so the answer of the file system is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    error = _refused(capsys, ["run", *ASKED, "--out", str(tmp_path / "new")], 3)
    assert f"found {tmp_path} without permission; give another --out" in error
    assert not (tmp_path / "new").exists()


def test_a_module_that_is_not_on_the_path(tmp_path, capsys):
    arguments = ["--model", "my_module_nobody_has:factory", "--attack", "fgsm", "--out", str(tmp_path)]
    error = _refused(capsys, arguments)
    assert "PYTHONPATH=FOLDER" in error
    assert "the folder that holds my_module_nobody_has" in error


def test_a_folder_without_a_list_of_cases(tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    error = _refused(capsys, [*ASKED, "--dataset", str(tmp_path / "scans"), "--out", str(tmp_path / "out")])
    assert "dataset.json" in error
    assert str(tmp_path / "scans") in error
    assert ".csv" in error.lower()


def test_transfer_needs_two_models(tmp_path, capsys):
    error = _refused(capsys, [*ASKED, "--transfer", "--out", str(tmp_path)])
    assert "at least two --model with --transfer, got unet alone" in error


def test_more_cases_than_there_are(toy, capsys):
    error = _refused(capsys, toy.arguments("--attack", "fgsm", "--cases", "100"))
    assert "at most 3" in error
    assert "got 100; for every case say --cases all" in error
    assert toy("--attack", "fgsm", "--cases", "first:100") == 0
    assert toy.table()["n_cases"].tolist() == [3]


def _rows(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_of_a_run_is_its_table_and_nothing_else(toy, capsys):
    asked = ("--attack", "fgsm", "--attack", "gn", "--transfer")
    toy.recorded(*asked, models=("unet", "segresnet"))
    capsys.readouterr()
    assert toy(*asked, "--json", models=("unet", "segresnet")) == 0
    rows = _rows(capsys)
    for kind, file in (("white-box", "white_box"), ("transfer", "transfer")):
        mine, table = [row for row in rows if row["kind"] == kind], toy.table(name=file)
        assert [(r["dataset"], r["surrogate"], r["target"], r["attack"]) for r in mine] == [
            ("toy", *names)
            for names in zip(table["surrogate"], table["target"], table["attack"], strict=True)
        ]
        for column in ("n_cases", "dice_clean", "dice_adv", "linf"):
            assert [row[column] for row in mine] == pytest.approx([float(x) for x in table[column]], rel=1e-6)
        # Three cases have no interval: null, which is JSON, and not NaN, which is none.
        assert {row["dice_adv_low"] for row in mine} == {None}


def test_json_of_compare_and_check(toy, capsys):
    toy.recorded("--attack", "fgsm", "--attack", "gn", "--transfer", models=("unet", "segresnet"))
    out = ["--out", str(toy.root / "results")]
    capsys.readouterr()
    assert (
        main(["compare", "--model", "unet", "--model", "segresnet", "--dataset", "toy", "--json", *out]) == 0
    )
    rows = _rows(capsys)
    assert [row["attack"] for row in rows] == ["fgsm:eps=8/255,loss=dice", "gn:std=8/255"]
    assert all(math.isclose(row["mean_a"] - row["mean_b"], row["difference"], abs_tol=1e-9) for row in rows)
    assert main(["check", *toy.arguments("--attack", "fgsm", "--only", "C9,C10", "--json")]) in (0, 1)
    found = _rows(capsys)
    assert [row["check"] for row in found] == ["C9", "C10"]
    assert found[0]["cases"] == ["case_000", "case_001", "case_002"]


def test_what_others_print_is_no_row(toy, capsys, monkeypatch):
    from robustvox.benchmark.cli.commands import run

    table = run.results_table

    def loud(*arguments):
        sys.stdout.write("somebody's code prints\n")
        return table(*arguments)

    monkeypatch.setattr(run, "results_table", loud)
    assert toy("--attack", "gn", "--json") == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["attack"] for line in printed.out.splitlines()] == ["gn:std=8/255"]
    assert "somebody's code prints" in printed.err
    assert "already recorded" in printed.err


@pytest.mark.parametrize(
    "request_class",
    [kind for kind in vars(requests).values() if isinstance(kind, type) and is_dataclass(kind)],
)
def test_no_option_has_the_name_of_another(request_class):
    """Fields of a request and of those inside it share one namespace: what was typed for one would reach the other."""

    def names(kind):
        hints = get_type_hints(kind)
        for field in fields(kind):
            yield from names(hints[field.name]) if is_dataclass(hints[field.name]) else [field.name]

    assert [name for name, many in Counter(names(request_class)).items() if many > 1] == []
