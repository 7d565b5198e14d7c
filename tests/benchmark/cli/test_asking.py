"""What the command line answers before it computes: who it is, how it is used, and what it refuses in one line."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from robustvox.benchmark.cli import app, main

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


def _refused(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 2
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
    error = _refused(capsys, [command, *asked, "--out", str(tmp_path / "file" / below)])
    assert f"found a file at {tmp_path / 'file'}; give another --out" in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path, capsys, monkeypatch
):
    # An administrator may write anywhere, so the answer of the file system is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    error = _refused(capsys, ["run", *ASKED, "--out", str(tmp_path / "new")])
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
