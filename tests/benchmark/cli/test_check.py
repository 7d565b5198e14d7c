"""The command `check` as a person meets it, and the flags that need no command."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from robustvox.attacks import BIM, FGSM, StepInfo
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.meter import StepWatch

QUICK = "C1,convergence,C7,C10"


def outcomes(out) -> list[dict]:
    text = (out / "toy" / "checks" / "robustvox-1.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def checked(toy):
    def run(*more: str) -> int:
        return main(["check", *toy.arguments("--cases", "2", *more)])

    return run


def test_it_prints_records_and_flags(toy, checked, capsys):
    toy("--attack", "bim:steps=2,alpha=4/255", "--attack", "fgsm")
    capsys.readouterr()
    code = checked("--attack", "bim:steps=2,alpha=4/255", "--only", QUICK)
    printed = capsys.readouterr().out
    found = outcomes(toy.root / "results")
    assert [(entry["check"], entry["cases"]) for entry in found] == [
        (id, ["case_000", "case_001"]) for id in ("C1", "C6", "C7", "C10")
    ]
    statuses = {entry["check"]: entry["status"] for entry in found}
    assert code == ("fail" in statuses.values())
    assert statuses["C1"] == statuses["C10"] == "pass"
    for entry in found:
        assert entry["status"] in printed
        assert str(toy.root) not in json.dumps(entry)
    flags = dict(zip(toy.table()["attack"].str.split(":").str[0], toy.table()["flags"], strict=True))
    assert flags["fgsm"] == ""
    for id, status in statuses.items():
        assert (f"{id}:{status}" in flags["bim"]) == (status != "pass")
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0


def test_a_broken_factory_fails_with_one_and_no_traceback(toy, capsys, monkeypatch, tmp_path):
    (tmp_path / "softened.py").write_text(
        "import torch\n"
        "def soft():\n"
        "    return torch.nn.Sequential(torch.nn.Conv3d(1, 3, 1), torch.nn.Softmax(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    common = ("--dataset", str(toy.folder), "--split", "all", "--cases", "1", "--out", str(tmp_path / "out"))
    code = main(["check", "--model", "softened:soft", "--attack", "fgsm", "--only", "C1,C10", *common])
    assert code == 1
    assert [entry["flag"] for entry in outcomes(tmp_path / "out")] == ["C1:fail", "C10:fail"]
    assert "Traceback" not in capsys.readouterr().out


def test_an_unreadable_case_leaves_the_others(toy, checked, capsys):
    (toy.folder / "imagesTr" / "case_000.nii.gz").write_bytes(b"no")
    assert checked("--attack", "fgsm", "--only", "C10") == 1
    assert "case_000" in capsys.readouterr().out
    assert [entry["cases"] for entry in outcomes(toy.root / "results")] == [["case_001"]]


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (("--attack", "fgsm", "--only", "C99"), "check"),
        (("--attack", "fgsm", "--only", "convergense"), "did you mean convergence"),
        (("--attack", "fgms"), "did you mean fgsm"),
        (("--attack", "fgsm", "--queries", "0"), "queries"),
    ],
)
def test_usage_errors_are_one_line(checked, capsys, more, hint):
    assert checked(*more) == 2
    shown = capsys.readouterr().err
    assert hint in shown
    assert shown.count("\n") == 1


class Flat(nn.Module):
    """Connected to its input by a gradient of zero."""

    def forward(self, images):
        return torch.cat([images * 0, images * 0 + 3], 1)


def watched(model, attack) -> set[str]:
    watch = StepWatch()
    images = torch.rand(1, 1, 4, 4, 4)
    attack(model, images, (images > 0.5).long(), on_step=watch)
    return watch.flags()


def test_no_progress_is_flagged_for_iterative_attacks_only():
    assert watched(Flat(), BIM(steps=3)) == {"no-progress"}
    assert watched(Flat(), FGSM()) == set()
    assert watched(nn.Conv3d(1, 2, 3, padding=1), BIM(steps=3, loss="ce")) == set()
    assert StepWatch().flags() == set()


def test_one_loss_that_is_not_finite_is_flagged():
    watch = StepWatch()
    for step, loss in enumerate((1.0, float("nan"), 2.0)):
        watch(StepInfo(step, 2, torch.tensor([loss]), torch.tensor([0.5]), torch.tensor([step])))
    assert watch.flags() == {"nonfinite-loss"}
