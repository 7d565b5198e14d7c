"""Verify: true records pass; an edited number, a hole, a foreign checkpoint or other data do not."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.commands.agreement import Recorded, columns_apart
from robustvox.benchmark.cli.commands.recompute import distance
from robustvox.benchmark.records.provenance import devices_of
from robustvox.benchmark.specs.tolerances import tolerance_of
from robustvox.models import load_checkpoint, save_checkpoint

from ..first_form import rows_in


@pytest.fixture
def recorded(toy):
    """A toy job with a failed case: two models, one attack, white-box."""
    toy.recorded("--attack", "fgsm", models=("unet", "segresnet"))
    return toy


def verify(toy, *more: str, models=("unet", "segresnet")) -> int:
    files = [a for name in models for a in ("--checkpoint", str(toy.checkpoints[name]))]
    results = str(toy.root / "results" / "toy")
    return main(["verify", results, "--dataset", str(toy.folder), "--device", "cpu", *files, *more])


def edit(toy, model: str, change) -> str:
    path = toy.root / "results" / "toy" / "records" / "robustvox-1" / model / "fgsm.jsonl"
    rows = [change(row) for row in rows_in(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row))
    return str(path)


def test_true_records_pass_and_a_tampered_number_does_not(recorded, capsys):
    assert verify(recorded, "--sample", "100") == 0
    out = capsys.readouterr().out
    assert "12 rows recomputed, 0 problems" in out
    assert out.count("agrees within") == 12

    def worse(row):
        return row | {"dice": row["dice"] + 0.2} if row["kind"] == "score" and row["class_id"] == 2 else row

    path = edit(recorded, "unet", worse)
    assert verify(recorded, "--sample", "100") == 1
    out = capsys.readouterr().out
    assert out.count("differs: unit") == 3
    assert f"{path}, line 3: unit " in out
    assert "of two as recorded" in out


def test_the_sample_is_the_same_for_the_same_seed(recorded, capsys):
    runs = []
    for seed in ("1", "1", "2"):
        assert verify(recorded, "--sample", "3", "--seed", seed) == 0
        runs.append(
            sorted(line for line in capsys.readouterr().out.splitlines() if line.startswith("agrees"))
        )
    assert 3 <= len(runs[0]) <= 4  # the best cell comes on top
    assert runs[0] == runs[1] != runs[2]


def test_an_unknown_checkpoint_is_named_with_its_row(recorded, capsys):
    assert verify(recorded, "--sample", "0", models=("unet",)) == 1
    out = capsys.readouterr().out
    assert "expected a known checkpoint of segresnet, got sha256 " in out
    assert "segresnet/fgsm.jsonl, line 3: unit " in out
    assert "give the file with --checkpoint FILE" in out
    assert "0 rows recomputed" in out
    # The same weights in another file are another checkpoint.
    path = recorded.root / "again.safetensors"
    loaded = load_checkpoint(recorded.checkpoints["segresnet"])
    save_checkpoint(path, loaded.network, loaded.card, dtype=torch.float32)
    recorded.checkpoints["segresnet"] = path
    assert verify(recorded, "--sample", "0") == 1


def test_a_dropped_row_is_named(recorded, capsys):
    dropped = []

    def drop(row):
        dropped.append(row["case"])
        return None if row["case"] == dropped[0] else row

    path = edit(recorded, "unet", drop)
    assert verify(recorded, "--sample", "0") == 1
    out = capsys.readouterr().out
    assert f"{path}: expected a row of {dropped[0]}, fgsm:" in out


def test_other_data_are_not_compared(recorded, capsys):
    path = recorded.folder / "labelsTr" / "case_001.nii.gz"
    label = nib.load(path)
    values = np.asarray(label.dataobj).copy()
    values[values == 2] = 1
    nib.save(nib.Nifti1Image(values, label.affine, label.header), path)
    assert verify(recorded, "--sample", "100") == 1
    out = capsys.readouterr().out
    assert out.count("this copy of the case is another one") == 4
    assert out.count("agrees within") == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "expected a folder of records at nowhere"),
        (["results", "--checkpoint", "nowhere.safetensors"], "expected a checkpoint at nowhere.safetensors"),
    ],
)
def test_usage_errors(arguments, words, capsys):
    assert main(["verify", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_distance_of_values_that_are_not_there():
    nan = float("nan")
    assert distance(nan, 0.0) == distance(None, 0.5) == float("inf")
    assert distance(0.5, 0.5) == distance(nan, nan) == 0.0


@pytest.mark.parametrize(
    ("attack", "column", "then", "now", "told"),
    [
        ("pgd:eps=8/255", "linf", 8 / 255, 7 / 255, True),
        ("vafa:eps=none,q_max=20", "linf", 0.117, 0.096, False),  # one voxel decides it
        ("vafa:eps=none,q_max=20", "linf", 0.5, 0.096, True),
        ("pgd:eps=8/255", "asr_voxel", float("nan"), 0.2, False),  # the first records do not have it
        ("pgd:eps=8/255", "asr_voxel", 0.1, 0.2, True),
        ("pgd:eps=8/255", "ssim", float("nan"), 0.9, True),
    ],
)
def test_columns_that_are_told_apart(attack, column, then, now, told):
    recorded = Recorded({}, {"attack": attack, column: then, "flags": ()})
    assert bool([*columns_apart(recorded, (), {column: now, "flags": ()})]) == told


def test_rows_of_another_kind_of_device_may_differ_more(tmp_path):
    assert tolerance_of("pgd", elsewhere=True) > tolerance_of("pgd")
    assert tolerance_of("none", elsewhere=True) == tolerance_of("none")
    entries = [{"compute": {"device": "cuda:1"}}, {"compute": {"device": "cpu"}}, {}]
    folder = tmp_path / "robustvox-1"
    folder.mkdir()
    lines = [json.dumps({"id": str(number), "entry": entry}) for number, entry in enumerate(entries)]
    (folder / "provenance.jsonl").write_text("\n".join(lines) + "\n")
    assert devices_of(tmp_path) == {"0": "cuda", "1": "cpu", "2": "cpu"}
