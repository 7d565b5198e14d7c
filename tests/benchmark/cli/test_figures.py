"""``python -m benchmark figures`` as a person meets it."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.harness.compute import ClassScore, mean_dice
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.report.examples import compare_with_record

from ..first_form import rows_in

ATTACK = "pgd:steps=2,alpha=4/255"


@pytest.fixture
def figures(toy, tmp_path):
    """Draws with the models, data and records of the toy job into ``out``."""

    def draw(*more: str, models=("unet",), cases="case_000", kinds="svg") -> int:
        named = [a for m in models for a in ("--model", m, "--checkpoint", str(toy.checkpoints[m]))]
        data = ["--dataset", str(toy.folder), "--split", "all", "--cases", cases]
        places = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--format", kinds]
        return main(["figures", *named, *data, *places, *more])

    draw.out = tmp_path / "out" / "toy"
    return draw


def test_a_case_is_drawn_as_it_was_scored(toy, figures, capsys):
    toy("--attack", ATTACK, "--attack", "gn")
    capsys.readouterr()
    assert figures("--attack", ATTACK, kinds="PNG, svg") == 0
    printed = capsys.readouterr().out
    assert "Equal to record" in printed
    slices = [f"slices_case_000_unet_pgd_alpha=4_255_eps=8_255_steps=2.{kind}" for kind in ("png", "svg")]
    names = {path.name for path in figures.out.iterdir()}
    assert {*slices, "distortion_robustvox-1.svg"} == names - {"distortion_robustvox-1.png"}
    assert all(name in printed for name in names)
    before = {path: path.read_bytes() for path in figures.out.glob("*.svg")}
    assert figures("--attack", ATTACK) == 0
    assert {path: path.read_bytes() for path in figures.out.glob("*.svg")} == before


def test_another_seed_has_no_record_and_a_changed_record_differs(toy, figures, capsys):
    toy.recorded("--attack", ATTACK)
    assert figures("--attack", ATTACK, "--seed", "1") == 0
    assert "No record of this case" in capsys.readouterr().out
    (path,) = (toy.root / "results" / "toy" / "records").rglob("pgd.jsonl")
    lines = rows_in(path)
    for line in lines:
        if line["kind"] == "score" and line["class_id"] == 1:
            line["dice"] += 0.125
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert figures("--attack", ATTACK) == 0
    assert "differs by up to 0.12 Dice in a class" in capsys.readouterr().out


def test_a_broken_case_is_one_line_and_the_others_are_drawn(toy, figures, capsys):
    path = toy.folder / "imagesTr" / "case_000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert figures("--attack", "gn", cases="case_000,case_001") == 1
    printed = capsys.readouterr().out
    assert "failed case_000, unet, gn:std=8/255: case case_000:" in printed
    assert [p.name for p in figures.out.iterdir()] == ["slices_case_001_unet_gn_std=8_255.svg"]


def test_records_alone_need_neither_model_nor_data(toy, tmp_path, capsys):
    toy("--attack", "fgsm:eps=4/255", "--attack", "fgsm", "--transfer", models=("unet", "segresnet"))
    capsys.readouterr()
    places = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert main(["figures", "--dataset", "Toy", "--format", "svg", *places]) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "toy").iterdir())
    assert names == [f"{kind}_robustvox-1.svg" for kind in ("budget", "distortion", "transfer")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "unet"], "--model and --attack together"),
        (["--format", "bmp"], "--format among png, svg, pdf, got bmp"),
        (["--format", ","], "got nothing"),
        (["--convention", "left"], "--convention among radiological, neurological, got left"),
        (["--dataset", "phantm"], "did you mean phantom?"),
        (["--results", "no/such/folder"], "expected records below"),
        (["--model", "unet", "--attack", "pdg"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, capsys):
    (tmp_path / "phantom" / "records").mkdir(parents=True)
    assert main(["figures", "--results", str(tmp_path), "--out", str(tmp_path / "out"), *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["figures"]) == 2
    assert (
        capsys.readouterr().err
        == 'error: figures: expected matplotlib, found none; pip install "matplotlib>=3.8"\n'
    )


def test_records_are_compared_class_by_class(toy):
    toy.recorded("--attack", "gn")
    records = load_records(toy.root / "results" / "toy" / "records")
    unit = records.costs[records.costs["attack"] != "none"].iloc[0]["unit"]
    named = type("Named", (), {"key": unit})()
    columns = [field.name for field in dataclasses.fields(ClassScore)]
    rows = records.scores[records.scores["unit"] == unit][columns].to_dict("records")
    scores = tuple(ClassScore(**row) for row in rows)
    assert compare_with_record(records, named, scores).startswith("Equal")
    assert "other classes" in compare_with_record(records, named, scores[:1])
    absent = [dataclasses.replace(scores[0], dice=float("nan")), *scores[1:]]
    assert "which classes are present" in compare_with_record(records, named, absent)
    assert mean_dice(scores) == pytest.approx(sum(row["dice"] for row in rows) / len(rows))
