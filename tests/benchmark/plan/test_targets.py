"""Published targets through the command line: from a user's file to rows, at toy width."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.benchmark.plan import targets
from robustvox.benchmark.plan.targets import free_memory_gb
from robustvox.benchmark.records.outcomes import load_outcomes
from robustvox.benchmark.records.reading import load_records
from robustvox.models.prompted import PromptedModel
from robustvox.models.prompted.catalog import TARGETS
from robustvox.models.prompted.suprem import build as build_suprem
from robustvox.models.prompted.vista3d import build as build_vista

SIZES = "init_filters=8,blocks_down=(1,1,1,1)"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A CT of one case in a list, with the liver and the spleen of a file that numbers more; memory for all of it."""
    monkeypatch.setattr(targets, "free_memory_gb", lambda _: 1000.0)
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    label = np.zeros((18, 20, 12), np.uint8)
    label[3:9, 4:12, 2:9] = 5
    label[11:16, 8:16, 4:10] = 1
    label[0, 0, 0] = 77
    image = (rng.normal(0, 40, label.shape) + 60 * (label == 5) - 60 * (label == 1)).astype(np.float32)
    for name, array in (("ct", image), ("seg", label)):
        nib.save(nib.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    (folder / "abdomen.csv").write_text("image,label,split\nct.nii.gz,seg.nii.gz,validation\n")
    (folder / "abdomen.json").write_text(
        json.dumps({"channels": ["CT"], "keep": {"5": "liver", "1": "spleen"}})
    )

    def run(model: str, checkpoint, *more: str, data: str = "abdomen.csv", command: str = "run") -> int:
        return main(
            [
                *(("run", "--no-report") if command == "run" else (command, "--queries", "20")),
                *(
                    "--model",
                    model,
                    "--checkpoint",
                    str(checkpoint),
                    "--attack",
                    "pgd:steps=1",
                ),
                *("--dataset", str(folder / data), "--out", str(tmp_path / "results"), *more),
            ]
        )

    return run


@pytest.fixture
def segresnet(tmp_path):
    torch.manual_seed(0)
    network = build_suprem("suprem_segresnet", init_filters=8, blocks_down=(1, 1, 1, 1))
    torch.save({"net": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "suprem.pth")
    return tmp_path / "suprem.pth"


def rows(tmp_path):
    # The folder's name tells lists of one name apart.
    return load_records(next((tmp_path / "results").glob("abdomen*/records")))


def test_a_full_vista3d_that_does_not_fit_is_refused_and_a_narrow_one_is_not(
    job, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(targets, "free_memory_gb", lambda _: 12.5)
    torch.manual_seed(0)
    torch.save(build_vista(8).state_dict(), tmp_path / "model.pt")
    assert job("vista3d", tmp_path / "model.pt") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert (
        "expected about 13.0 GB for one window of vista3d with its gradient on cpu, found 12.5 GB free"
        in error
    )
    assert job("vista3d:anyway=true", tmp_path / "model.pt") == 2
    assert "expected exactly the" in capsys.readouterr().err


def test_a_published_file_becomes_rows(job, segresnet, tmp_path, capsys):
    assert job(f"suprem_segresnet:{SIZES}", segresnet) == 0
    printed = capsys.readouterr().out
    assert "licence of the weights: of the weights: not stated" in printed.replace("\n", " ")
    records = rows(tmp_path)
    assert set(records.scores["class_name"]) == {"liver", "spleen"}
    attacked = records.costs[records.costs["attack"] != "none"]
    assert len(attacked) == 1
    assert attacked["linf"].item() == pytest.approx(8 / 255, rel=1e-4)
    assert attacked["blind"].item() == 0.0
    provenance = next((tmp_path / "results").rglob("provenance.jsonl")).read_text()
    assert "patents are pending" in json.loads(provenance.splitlines()[-1])["entry"]["licences"].popitem()[1]


@pytest.mark.slow
def test_clicks_are_written_into_the_rows(job, tmp_path):
    torch.manual_seed(0)
    torch.save(build_vista(8).state_dict(), tmp_path / "model.pt")
    assert job("vista3d:width=8,prompts=click,click_seed=3", tmp_path / "model.pt") == 0
    costs = rows(tmp_path).costs
    assert costs["target"].unique().tolist() == ["vista3d:click_seed=3,clicks=1,prompts=click,width=8"]
    (prompts,) = costs["prompts"].unique()
    assert prompts.startswith("click 1@")
    assert " 2@" in prompts


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("suprem_segresnet:prompts=click", "expected prompts of suprem_segresnet among none, got click"),
        ("vista3d", "expected exactly the"),
        (
            "obelisk_hybrid:width=3",
            "obelisk_hybrid: expected parameters among prompts, clicks, click_seed, map, allow",
        ),
        (f"suprem_segresnet:{SIZES},map=nowhere.json", "expected a JSON map of classes"),
        (f"suprem_segresnet:{SIZES},fold=1", "suprem_segresnet: "),
    ],
)
def test_what_cannot_be_is_one_line_and_runs_nothing(job, segresnet, tmp_path, capsys, model, message):
    model = model.replace("segresnet:prompts", f"segresnet:{SIZES},prompts")
    assert job(model, segresnet) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_a_missing_file_says_where_it_comes_from(job, tmp_path, capsys):
    assert job("vista3d", tmp_path / "none.pt") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "VISTA3D bundle" in error
    assert "Noncommercial" in error


def test_another_modality_is_refused_unless_asked_for(job, segresnet, tmp_path, capsys):
    (tmp_path / "data" / "abdomen.json").write_text(
        json.dumps({"channels": ["MRI"], "keep": {"5": "liver", "1": "spleen"}})
    )
    assert job(f"suprem_segresnet:{SIZES}", segresnet) == 2
    assert "expected CT for suprem_segresnet, found MRI" in " ".join(capsys.readouterr().err.split())
    assert job(f"suprem_segresnet:{SIZES},allow_modality_mismatch=true", segresnet) == 0


@pytest.mark.slow
def test_checks_take_a_prompted_target(job, segresnet, tmp_path, monkeypatch, capsys):
    """Checks look at the target of the case, made once, and none fails for want of a case."""
    made = []
    original = PromptedModel.for_case
    monkeypatch.setattr(
        PromptedModel, "for_case", lambda self, case: made.append(case.id) or original(self, case)
    )
    model = f"suprem_segresnet:{SIZES}"
    assert job(model, segresnet, "--only", "C1,C9,C16,C17,C18,C23", command="check") == 0
    capsys.readouterr()
    found = load_outcomes(next((tmp_path / "results").rglob("checks")))
    assert set(found["check"]) == {"C1", "C9", "C16", "C17", "C18", "C23"}
    assert set(found["status"]) <= {"pass", "warn"}, found["detail"].tolist()
    assert made == ["ct"]


def test_a_target_that_does_not_fit_says_so_before_the_run(job, segresnet, monkeypatch, capsys):
    from dataclasses import replace

    monkeypatch.setitem(TARGETS, "suprem_segresnet", replace(TARGETS["suprem_segresnet"], gradient_gb=1e6))
    assert job(f"suprem_segresnet:{SIZES}", segresnet) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "expected 1000000.0 GB for one window of suprem_segresnet" in error
    assert "it does not fit" in error
    assert job(f"suprem_segresnet:{SIZES},anyway=true", segresnet) == 0


def test_a_map_is_part_of_the_models_identity(job, segresnet, tmp_path):
    for n, source in enumerate(("liver", "liver tumor")):
        (tmp_path / "map.json").write_text(json.dumps({"liver": [source]}))
        assert job(f"suprem_segresnet:{SIZES},map={tmp_path / 'map.json'}", segresnet) == 0
        assert rows(tmp_path).costs["target_sha256"].nunique() == n + 1


def test_free_memory_is_told_where_the_system_tells_it(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    4000000 kB\n")
    monkeypatch.setattr(targets, "MEMINFO", tmp_path / "meminfo")
    assert free_memory_gb("cpu") == pytest.approx(4.096)
    monkeypatch.setattr(targets, "MEMINFO", tmp_path / "none")
    assert free_memory_gb("cpu") is None
