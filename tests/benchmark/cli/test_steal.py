"""The ``steal`` command: what it refuses in one line, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.commands.steal import build_study, folder_name
from robustvox.benchmark.specs.requests import StealRequest
from robustvox.benchmark.studies.stealing.tables import tables
from robustvox.benchmark.studies.stealing.thefts import PLAIN, RAW
from robustvox.models import read_card

TINY = "unet:channels=(4,8),num_res_units=0"


def tiny(folder, out, **more):
    options = {
        "--model": TINY, "--thief": TINY, "--dataset": folder, "--out": out, "--shift": "edge:3,noise:0.02",
        "--queries": 4, "--pool": 5, "--reference": 2, "--cases": 2, "--victim-cases": 4, "--victim-steps": 2,
        "--steps": 2, "--roi-size": "16,16,16", "--device": "cpu", **more,
    }  # fmt: skip
    return ["steal", *(str(part) for pair in options.items() for part in pair)]


@pytest.mark.slow
def test_one_command_steals_attacks_and_writes_tables(msd_folder, tmp_path, capsys):
    arguments = tiny(msd_folder(16), tmp_path / "out")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "function on the thief's scanner" in printed
    assert "smoothed sign noise" in printed
    (folder,) = (tmp_path / "out" / "toy" / "stealing").iterdir()
    assert folder.name == "unet-channels-4-8-num_res_units-0-edge-3-noise-0.02"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "victim.safetensors", "copies", "calibration.csv", "function_cases.csv.gz", "transfer_cases.csv.gz",
        "function.csv", "transfer.csv", "queries.csv", "tables.md",
    }  # fmt: skip
    function = tables(folder)["function"].set_index("row")
    assert function.loc[PLAIN]["queries"] == function.loc[RAW]["queries"] == 4
    for path in (folder / "copies").iterdir():
        assert read_card(path).data["shift"] == "edge:3,noise:0.02"
    before = {path: path.stat().st_mtime_ns for path in (folder / "copies").iterdir()}
    assert main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "copies").iterdir()}
    assert main([*arguments, "--steps", "3"]) == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"--model": "unte"}, "did you mean unet"),
        ({"--shift": "edges:3"}, "expected a shift among"),
        ({"--calibration": "guess"}, "unknown --calibration"),
        ({"--roi-size": "16,x"}, "whole numbers of voxels"),
        ({"--roi-size": "15,15,15"}, "15"),
        ({"--queries": 50}, "expected --pool of at least the 50 queries"),
        ({"--pool": 40}, "give a smaller --pool"),
        ({"--rounds": 9}, "at least two volumes per round"),
        ({"--other": "segresnet"}, "segresnet"),
        ({"--checkpoint": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"--device": "abacus"}, "--device"),
        ({"--seed": -1}, "expected --seed of at least 0"),
        ({"--out": Path(__file__)}, "give another --out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(msd_folder, tmp_path, capsys, more, message):
    assert main(tiny(msd_folder(14), tmp_path / "out", **more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_the_defaults_are_those_of_the_study(tmp_path):
    study = build_study(StealRequest(model="UNet"), tmp_path)
    assert study.steal.budget == 38
    assert study.curve == (10, 19)
    assert study.others == ()
    assert folder_name(study) == "unet-edge-6"
    (tmp_path / "segresnet.safetensors").touch()
    assert build_study(StealRequest(model="unet"), tmp_path).others == ("segresnet",)
    assert (study.victim_steps, study.steal.steps) == (1000, 400)
    few = build_study(StealRequest(model="unet", queries=2), tmp_path)
    assert few.curve == ()
