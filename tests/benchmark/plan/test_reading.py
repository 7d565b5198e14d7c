"""From the command line: a model that reads files for itself gets what the file holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.nets.unet import UNet
from monai.transforms.intensity.array import NormalizeIntensity

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "bring"))
from test_nnunet_reading import read, write

from robustvox.benchmark.cli import main
from robustvox.benchmark.metrics import score
from robustvox.benchmark.plan.folds import training_folds

from ..first_form import rows_in

NET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8],
    "strides": [2], "num_res_units": 1, "norm": "batch",
}  # fmt: skip
LOAD = {"_target_": "LoadImaged", "keys": "image"}


def clean_dice(root):
    rows = [row for file in root.glob("records/*/*/clean.jsonl") for row in rows_in(file)]
    return {(row["case"], row["class_name"]): row["dice"] for row in rows if row["kind"] == "score"}, rows


def test_a_bundle_sees_what_its_preprocessing_makes_of_the_file(msd_folder, write_bundle, tmp_path):
    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in NET.items() if not key.startswith("_")}).eval()
    steps = [LOAD, {"_target_": "NormalizeIntensityd", "keys": "image"}]
    bundle = write_bundle(
        network, NET, classes=("background", "one", "two"), window=(20, 20, 18),
        config={"preprocessing": {"_target_": "Compose", "transforms": steps}},
    )  # fmt: skip
    data, out = msd_folder(2), tmp_path / "out"
    command = [
        "--no-report",
        "--model",
        str(bundle),
        "--attack",
        "fgsm",
        "--dataset",
        str(data),
        "--split",
        "all",
    ]
    assert main([*command, "--cases", "all", "--out", str(out)]) == 0
    found, _ = clean_dice(out / "toy")
    for case in ("case_000", "case_001"):
        image, label = (
            nib.loadsave.load(data / part / f"{case}.nii.gz") for part in ("imagesTr", "labelsTr")
        )
        values = NormalizeIntensity()(np.asarray(image.dataobj, np.float32)[None])
        padded = np.pad(np.asarray(values), [(0, 0), *((((20, 20, 18)[i] - s) // 2, (20, 20, 18)[i] - s - ((20, 20, 18)[i] - s) // 2) for i, s in enumerate(values.shape[1:]))])  # fmt: skip
        with torch.no_grad():
            whole = network(torch.from_numpy(padded)[None]).argmax(1)[0].numpy()
        box = tuple(
            slice((w - s) // 2, (w - s) // 2 + s) for w, s in zip((20, 20, 18), values.shape[1:], strict=True)
        )
        expected = score(
            whole[box], np.asarray(label.dataobj).astype(int), num_classes=3, spacing_mm=(1, 1, 2)
        )
        for name, dice in zip(("one", "two"), expected["dice"], strict=True):
            assert found[case, name] == pytest.approx(dice, abs=1e-6)


def raw(root, affine, cases=5):
    """The same arrays in nnU-Net's raw layout under a header of one's choice."""
    labels = {"background": 0, "a": 1, "b": 2}
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for index in range(cases):
        rng = np.random.default_rng(index)
        label = np.zeros((12, 14, 9), np.uint8)
        label[2:6, 3:9, 2:6], label[7:11, 3:9, 2:6] = 1, 2
        image = (rng.normal(0, 5, label.shape) + 60 * label).astype(np.float32)
        nib.loadsave.save(
            nib.nifti1.Nifti1Image(image, affine), root / "imagesTr" / f"case_{index:03d}_0000.nii.gz"
        )
        nib.loadsave.save(
            nib.nifti1.Nifti1Image(label, affine), root / "labelsTr" / f"case_{index:03d}.nii.gz"
        )
    meta = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


def test_an_nnunet_scores_the_same_array_the_same_under_every_header(tmp_path, capsys):
    sagittal = np.zeros((4, 4))
    sagittal[1, 0], sagittal[2, 1], sagittal[0, 2], sagittal[3, 3] = -1.0, -1.5, 3.0, 1.0
    headers = {
        "ras": np.diag([1.0, 1.5, 3.0, 1.0]),
        "las": np.diag([-1.0, 1.5, 3.0, 1.0]),
        "sagittal": sagittal,
    }
    model, found = write(tmp_path / "model", spacing=(3.0, 1.0, 1.0)), {}
    for name, affine in headers.items():
        report = "--report" if name == "sagittal" else "--no-report"
        data = str(raw(tmp_path / name, affine))
        command = [report, "--model", str(model), "--attack", "gn:std=0", "--dataset", data]
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
        found[name], _ = clean_dice(tmp_path / "out" / name)
        assert "volumes fill" in capsys.readouterr().out
    (page,) = (tmp_path / "out" / "sagittal" / "reports").glob("[0-9]*.html")
    text = page.read_text()
    for said in (
        "was fed",
        "axes as stored in the file",
        "resampled to 1 x 1 x 3 mm",
        "volumes fill",
    ):
        assert said in text
    assert found["ras"] == pytest.approx(found["las"])
    assert found["ras"] == pytest.approx(found["sagittal"])


def test_a_fold_is_scored_on_what_it_held_out_and_training_cases_are_flagged(tmp_path):
    data = raw(tmp_path / "data", np.eye(4))
    ids = [f"case_{index:03d}" for index in range(5)]
    splits = [{"train": [c for c in ids if c != out], "val": [out]} for out in ids]
    (data / "splits_final.json").write_text(json.dumps(splits))
    model = write(tmp_path / "model", folds=("1", "2"))
    command = ["--no-report", "--attack", "gn:std=0", "--dataset", str(data), "--out"]
    assert main([*command, str(tmp_path / "held"), "--model", f"{model}:fold=1"]) == 0
    _, rows = clean_dice(tmp_path / "held" / "data")
    assert {row["case"] for row in rows} == {"case_001"}
    assert not any("training-case" in row.get("flags", []) for row in rows)
    assert (
        main([*command, str(tmp_path / "seen"), "--model", f"{model}:fold=1", "--cases", "case_002,case_001"])
        == 0
    )
    _, rows = clean_dice(tmp_path / "seen" / "data")
    flagged = {row["case"] for row in rows if "training-case" in row.get("flags", [])}
    assert flagged == {"case_002"}
    assert main([*command, str(tmp_path / "each"), "--model", f"{model}:fold=cv", "--cases", "all"]) == 0
    _, rows = clean_dice(tmp_path / "each" / "data")
    assert {row["case"] for row in rows} == {"case_001", "case_002"}
    assert not any("training-case" in row.get("flags", []) for row in rows)


def test_rows_follow_what_becomes_known_of_the_folds(tmp_path):
    """A split file that is added or changed later flags its rows, though their numbers are recorded already."""
    data, model = raw(tmp_path / "data", np.eye(4)), write(tmp_path / "model", folds=("0", "1"), number=7)
    ids = [f"case_{index:03d}" for index in range(5)]
    command = ["--no-report", "--attack", "gn:std=0", "--dataset", str(data), "--out", str(tmp_path / "out")]
    command += ["--cases", "case_002,case_003"]

    def flagged():
        assert main([*command, "--model", str(model)]) == 0
        table = pd.read_csv(tmp_path / "out" / "data" / "white_box.csv")
        return sorted(table["flags"].str.contains("training-case"))

    assert flagged() == [False]
    (data / "splits_final.json").write_text(json.dumps([{"train": ids[1:], "val": ids[:1]}] * 2))
    assert flagged() == [False, True]
    # `cv` predicts a case by the fold that held it out: other folds are another model.
    (data / "splits_final.json").write_text(
        json.dumps([{"train": ids[:3], "val": ids[3:]}, {"train": ids[3:], "val": ids[:3]}])
    )
    folds = [read(model, fold="cv", folds=training_folds(model, ids, data)).sha256]
    (data / "splits_final.json").write_text(
        json.dumps([{"train": ids[3:], "val": ids[:3]}, {"train": ids[:3], "val": ids[3:]}])
    )
    folds.append(read(model, fold="cv", folds=training_folds(model, ids, data)).sha256)
    assert folds[0] != folds[1]
