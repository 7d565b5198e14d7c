"""Publishing: what is sound is added once, what is not adds nothing, and nothing else writes there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records import load_records
from robustvox.benchmark.records.outcomes import CheckOutcome, load_outcomes, save

from ..first_form import rows_in


@pytest.fixture
def run(toy):
    """A run of one attack, and a folder of published results that holds another of the same model."""
    assert toy("--attack", "gn", out=toy.root / "first") == 0
    assert (
        main(["leaderboard", "--publish", str(toy.root / "first"), "--out", str(toy.root / "results")]) == 0
    )
    assert toy("--attack", "fgsm", out=toy.root / "runs") == 0
    return toy


def publish(toy) -> int:
    return main(["leaderboard", "--publish", str(toy.root / "runs"), "--out", str(toy.root / "results")])


def texts(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(toy, change, attack: str = "fgsm") -> None:
    path = toy.root / "runs" / "toy" / "records" / "robustvox-1" / "unet" / f"{attack}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in map(change, rows_in(path)) if row))


def test_what_is_sound_is_added_once(run, capsys):
    capsys.readouterr()
    assert publish(run) == 0
    # Three clean volumes are in both runs.
    assert "toy: 3 rows added, 3 were published already" in capsys.readouterr().out
    costs = load_records(run.root / "results" / "toy" / "records").costs
    assert costs["attack"].str.partition(":")[0].value_counts().to_dict() == {"none": 3, "gn": 3, "fgsm": 3}
    assert set(run.table()["attack"].str.partition(":")[0]) == {"gn", "fgsm"}
    assert main(["leaderboard", "--check", "--out", str(run.root / "results")]) == 0
    before = texts(run.root / "results")
    assert publish(run) == 0
    assert "0 rows added, 6 were published already" in capsys.readouterr().out
    assert texts(run.root / "results") == before


@pytest.mark.parametrize(
    ("change", "words", "attack"),
    [
        (lambda r: r | {"dice": min(r["dice"] + 0.02, 1.0)} if r["kind"] == "score" else r, "one of them is wrong", "clean"),
        (lambda r: None if r["case"] == "case_001" else r, "expected a row of case_001", "fgsm"),
        (lambda r: r | {"case": "case_009"}, "expected the hash of the row's own identity", "fgsm"),
        (lambda r: r | {"provenance": "0" * 16} if r["kind"] == "cost" else r, "expected the run 0000", "fgsm"),
    ],
    ids=["contradicts", "dropped", "renamed", "orphan"],
)  # fmt: skip
def test_what_is_wrong_adds_nothing(run, capsys, change, words, attack):
    before = texts(run.root / "results")
    edit(run, change, attack)
    capsys.readouterr()
    assert publish(run) == 1
    out = capsys.readouterr().out
    assert words in out
    assert "nothing was added" in out
    assert texts(run.root / "results") == before


def test_outcomes_of_checks_are_added_without_rows(run, capsys):
    """A suite whose rows are all published makes a folder with checks alone."""
    outcome = CheckOutcome(
        dataset="toy", protocol="robustvox-1", surrogate="unet", surrogate_sha256="0" * 64, attack="fgsm:eps=8/255,loss=dice",
        check="C1", slug="clean-consistency", status="pass", flag="", number=0.0, rule="", detail="", cases=("case_000",),
        seed=0, queries=10, robustvox="0", commit="", torch="",
    )  # fmt: skip
    save(run.root / "alone" / "toy" / "checks", [outcome])
    capsys.readouterr()
    assert (
        main(["leaderboard", "--publish", str(run.root / "alone"), "--out", str(run.root / "results")]) == 0
    )
    assert "toy: 0 rows added, 0 were published already, 1 outcomes of checks" in capsys.readouterr().out
    assert list(load_outcomes(run.root / "results" / "toy" / "checks")["check"]) == ["C1"]


def test_nothing_else_writes_there(run, capsys):
    before = texts(run.root / "results")
    for command in ([], ["check", "--only", "C1"], ["frequency", "--bands", "radial"]):
        attacked = run.arguments("--attack", "fgsm")
        assert main([*command, *attacked]) == 2, command
        assert "which is published; leave --out away" in capsys.readouterr().err
    assert texts(run.root / "results") == before


def test_a_row_of_a_run_that_is_gone_is_found(run, capsys):
    """Of the published rows too: an entry that was taken out takes no row with it."""
    path = run.root / "results" / "toy" / "records" / "robustvox-1" / "provenance.jsonl"
    path.write_text("")
    assert main(["leaderboard", "--check", "--out", str(run.root / "results")]) == 1
    assert "in provenance.jsonl, found none" in capsys.readouterr().out


def test_check_and_publish_exclude_each_other(run, capsys):
    assert main(["leaderboard", "--check", "--publish", "x", "--out", str(run.root / "results")]) == 2
    assert "got both" in capsys.readouterr().err


def test_runs_are_ignored_by_git():
    """What the commands write by default is nobody's commit."""
    from robustvox.benchmark.specs.options import RUNS

    repository = Path(__file__).resolve().parents[3]
    ignored = ["git", "-C", str(repository), "check-ignore", "-q", f"{RUNS}/phantom/records/x.jsonl"]
    try:
        assert subprocess.run(ignored, check=False).returncode == 0
    except FileNotFoundError:
        pytest.skip("git is not installed")


def test_training_leaves_the_zoo_of_the_code_alone(toy, tmp_path, monkeypatch, capsys):
    """A checkpoint trained here is found by its name where the code has none, and is told about where it has."""
    from robustvox.benchmark.plan.zoo import zoo_file
    from robustvox.datasets import open_dataset
    from robustvox.models import ZOO

    monkeypatch.chdir(tmp_path)
    small = "unet:channels=(4,8),num_res_units=1"
    command = ["train", "--model", small, "--dataset", str(toy.folder), "--steps", "1", "--roi-size", "16"]
    assert main(command) == 0
    (path,) = (tmp_path / "runs" / "zoo").rglob("unet.safetensors")
    assert path.parent.name.startswith("toy")
    capsys.readouterr()
    attacked = ["--attack", "fgsm", "--dataset", str(toy.folder), "--split", "all", "--cases", "1"]
    assert main(["--model", "unet", *attacked, "--no-report"]) == 0
    assert "2 computed" in capsys.readouterr().out
    assert zoo_file(open_dataset("phantom"), "unet") == ZOO / "phantom" / "unet.safetensors"
