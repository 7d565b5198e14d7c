"""What is asked of the program itself, and what it cannot do, in one line with what to do."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.specs.program import pasted, program


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"robustvox {importlib.metadata.version('robustvox')}\n"
    assert main(["-h"]) == 0
    short = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == short
    assert "leaderboard" in short
    assert main(["run", "-h"]) == 0
    assert "--attack" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "found"), [("robustvox lea", "leaderboard"), ("robustvox run --mod", "--model")]
)
def test_a_shell_completes(words, found, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/robustvox"])
    monkeypatch.setenv("_ROBUSTVOX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert found in capsys.readouterr().out.split()


def test_the_name_is_the_one_that_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/robustvox", "run"])
    assert program() == "robustvox"
    assert pasted(["run", "--out", "my results"]) == "robustvox run --out 'my results'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest"])
    assert program() == "python -m benchmark"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--cases", "100"], ("at most 3", "got 100", "--cases all")),
        (["--transfer"], ("at least two --model", "--target")),
        (["--model", "no_such_module:Net"], ("no_such_module", "PYTHONPATH")),
    ],
)
def test_a_refusal_is_one_line_with_the_remedy(toy, capsys, typed, said) -> None:
    options = toy.arguments("--attack", "fgsm")
    if "--cases" in typed:
        place = options.index("--cases")
        del options[place : place + 2]
    if "--model" in typed:
        options = [*options[4:], "--untrained"]
    assert main([*options, *typed]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert all(part in lines[0] for part in said)


def test_a_folder_that_is_none_and_a_dataset_without_its_file(toy, capsys, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert toy("--attack", "fgsm", out=tmp_path / "file") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "--out" in line
    assert main(["--model", "unet", "--attack", "fgsm", "--dataset", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give the folder that holds dataset.json" in line
