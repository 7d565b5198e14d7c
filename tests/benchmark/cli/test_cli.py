"""The command line as a person meets it: tables, exit codes, and one clear line for every mistake."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS

from ..first_form import rows_in


def steady(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=list(MEASURED_COLUMNS))


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_warning_is_told_once_and_in_one_line(toy, capsys):
    assert toy("--attack", "pgd:steps=2,alpha=1/255") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "warning" in line.lower()] == [
        "warning: PGD: steps * alpha = 0.00784314 < eps = 0.0313725. "
        "The attack cannot reach the edge of its ball: raise steps or alpha"
    ]


def test_a_run_writes_records_and_tables(toy, capsys):
    assert toy("--attack", "pgd:steps=2,alpha=4/255", "--attack", "gn") == 0
    printed = capsys.readouterr().out
    assert "pgd:alpha=4/255" in printed
    assert "white-box" in printed
    table = toy.table()
    assert list(table["attack"]) == [
        "gn:std=8/255",
        "pgd:alpha=4/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=2",
    ]
    assert (table["n_cases"] == 3).all()
    assert table["linf"][1] <= 8 / 255
    assert table["forwards"][1] == 3
    assert table["backwards"][1] == 2
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0


def test_running_again_computes_nothing_and_changes_nothing(toy, capsys):
    toy.recorded("--attack", "fgsm")
    before = {
        p: p.read_bytes()
        for p in (toy.root / "results").rglob("*")
        if p.is_file() and "provenance" not in p.name
    }
    capsys.readouterr()
    assert toy("--attack", "fgsm") == 0
    assert "0 computed, 6 already recorded" in capsys.readouterr().out
    assert all(p.read_bytes() == content for p, content in before.items())


def test_changed_data_is_computed_again(toy, capsys):
    toy.recorded("--attack", "fgsm")
    path = toy.folder / "imagesTr" / "case_000.nii.gz"
    stored = nib.load(path)
    array = np.asarray(stored.dataobj).copy()
    array[0, 0, 0] += 50
    nib.save(nib.Nifti1Image(array, stored.affine), path)
    capsys.readouterr()
    toy("--attack", "fgsm")
    assert "2 computed, 4 already recorded" in capsys.readouterr().out
    assert toy.table()["n_cases"].tolist() == [3]


def test_order_of_models_attacks_and_cases_changes_nothing(toy):
    first, second = toy.root / "one", toy.root / "two"
    toy("--attack", "pgd:steps=2,alpha=4/255", "--attack", "vafa:steps=2,block_size=8", "--transfer",
        models=("unet", "segresnet"), out=first)  # fmt: skip
    toy("--attack", "vafa:steps=2,block_size=8", "--attack", "pgd:steps=2,alpha=4/255", "--transfer",
        "--cases", "case_002,case_000,case_001", models=("segresnet", "unet"), out=second)  # fmt: skip
    for name in ("white_box", "transfer"):
        pd.testing.assert_frame_equal(steady(toy.table(first, name)), steady(toy.table(second, name)))
    assert len(toy.table(first, "transfer")) == 4


def test_transfer_crafts_once_and_scores_everywhere(toy):
    toy("--attack", "fgsm", "--transfer", models=("unet", "segresnet"))
    costs = load_records(toy.root / "results" / "toy" / "records").costs
    attacked = costs[costs["attack"] != "none"]
    for _, group in attacked.groupby(["case", "surrogate"]):
        assert len(group) == 2
        assert group["linf"].nunique() == 1
        assert group["seconds"].nunique() == 1


@pytest.mark.parametrize("sw_batch_size", ["1", "3"])
def test_window_batches_move_no_score(toy, sw_batch_size):
    toy("--attack", "pgd:steps=3,alpha=4/255", out=toy.root / "four")
    toy("--attack", "pgd:steps=3,alpha=4/255", "--sw-batch-size", sw_batch_size, out=toy.root / "other")
    scores = [load_records(toy.root / name / "toy" / "records").scores for name in ("four", "other")]
    scores = [s.sort_values(["attack", "case", "class_id"])["dice"].to_numpy() for s in scores]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


def test_one_bad_case_fails_alone(toy, capsys, data_root):
    (toy.folder / "imagesTr" / "case_001.nii.gz").write_bytes(
        (data_root / "bad" / "truncated.nii.gz").read_bytes()
    )
    assert toy("--attack", "fgsm") == 1
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("failed")]
    assert line.startswith("failed toy case_001 clean and 1 more of this case: case case_001: expected")
    table = toy.table()
    assert table["n_cases"].tolist() == [2]
    assert table["failed"].tolist() == [1]


def test_a_repaired_case_is_retried(toy):
    path = toy.folder / "imagesTr" / "case_001.nii.gz"
    good = path.read_bytes()
    path.write_bytes(b"")
    assert toy("--attack", "fgsm") == 1
    path.write_bytes(good)
    assert toy("--attack", "fgsm") == 0
    assert toy.table()[["n_cases", "failed"]].to_numpy().tolist() == [[3, 0]]


@pytest.mark.parametrize("units", ["unit", "original"])
def test_saved_volumes_are_what_was_scored(toy, units):
    toy("--attack", "fgsm:eps=4/255", "--cases", "case_000", "--save-adversarial", "--units", units)
    (path,) = (toy.root / "results" / "toy" / "adversarial").rglob("*.nii.gz")
    saved, source = nib.load(path), nib.load(toy.folder / "imagesTr" / "case_000.nii.gz")
    np.testing.assert_array_equal(saved.affine, source.affine)
    assert saved.get_data_dtype() == np.float32
    costs = load_records(toy.root / "results" / "toy" / "records").costs
    row = costs[costs["attack"] != "none"].iloc[0]
    assert row["unit"] in bytes(saved.header["descrip"]).decode()
    from robustvox.datasets import open_dataset

    volume = open_dataset(toy.folder).load("case_000")
    values = saved.get_fdata(dtype=np.float32)
    image = values if units == "unit" else volume.window.apply(values)
    assert np.abs(image - volume.image[0]).max() == pytest.approx(row["linf"], abs=1e-6)


def run(arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "robustvox.benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **more,
    )


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_tables(toy):
    attacks = [
        "--attack",
        "pgd:steps=12",
        "--attack",
        "cospgd:steps=12",
        "--attack",
        "vafa:steps=12,block_size=8",
    ]
    whole, torn = toy.root / "whole", toy.root / "torn"
    assert toy(*attacks, out=whole) == 0
    for size in (1, 6000):
        process = subprocess.Popen(
            [sys.executable, "-m", "robustvox.benchmark", *toy.arguments(*attacks, out=torn)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            written = sum(p.stat().st_size for p in torn.rglob("*.jsonl") if p.name != "provenance.jsonl")
            if written >= size:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        process.wait()
    assert toy(*attacks, out=torn) == 0
    pd.testing.assert_frame_equal(steady(toy.table(whole)), steady(toy.table(torn)))
    costs = [row for p in torn.glob("*/records/*/*/*.jsonl") for row in rows_in(p) if row["kind"] == "cost"]
    assert len(costs) == 12
    assert len({row["unit"] for row in costs}) == 12


MISTAKES = [
    (["--attack", "pgdd"], "did you mean pgd?"),
    (["--attack", "pgd:epz=1"], "did you mean eps?"),
    (["--attack", "pgd:eps=8"], "eps"),
    (["--attack", "pgd:eps=-0.1"], "eps"),
    (["--attack", "pgd:eps=red"], "eps"),
    (["--attack", "pgd:steps"], "key=value"),
    (["--attack", "fgsm", "--cases", "0"], "--cases"),
    (["--attack", "fgsm", "--cases", "case_999"], "ids look like"),
    (["--attack", "fgsm", "--split", "validaton"], "did you mean validation?"),
    (["--attack", "fgsm", "--protocol", "bmvc"], "protocol"),
    (["--attack", "fgsm", "--device", "quantum"], "--device"),
    (["--attack", "fgsm", "--dataset", "hipocampus"], "did you mean hippocampus?"),
    (["--attack", "fgsm", "--units", "HU"], "--units"),
    (["--attack", "fgsm", "--sw-batch-size", "0"], "sw-batch-size"),
    (["--attack", "fgsm", "--modle", "unet"], "modle"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(toy, capsys, arguments, message):
    assert toy(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_mistakes_about_models_and_commands(toy, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ROBUSTVOX_DATA", raising=False)
    pickled = tmp_path / "evil.safetensors"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    folder = ["--dataset", str(toy.folder)]
    unet = str(toy.checkpoints["unet"])
    for arguments, message in [
        (["--model", "unnet", "--attack", "fgsm"], "did you mean unet?"),
        (["--model", "unet", "--attack", "fgsm", *folder], "--untrained"),
        (
            ["--model", "unet", "--attack", "fgsm", *folder, "--checkpoint", str(tmp_path / "none")],
            "found none",
        ),
        (["--model", "segresnet", "--attack", "fgsm", *folder, "--checkpoint", unet], "found unet"),
        (["--model", "unet", "--attack", "fgsm", *folder, "--checkpoint", str(pickled)], "a pickle"),
        (["--model", "unet", "--attack", "fgsm", "--checkpoint", unet], "8 classes"),
        (["--model", "unet:size=paper", "--attack", "fgsm", *folder, "--checkpoint", unet], "size=paper"),
        (
            ["--model", "unet", "--attack", "fgsm", "--checkpoint", unet, "--checkpoint", unet],
            "one --checkpoint per",
        ),
        (["--model", "no.such:thing", "--attack", "fgsm"], "importable"),
        (["--model", "unet", "--attack", "fgsm", "--dataset", "hippocampus"], "--data-root"),
        (["--model", "unet"], "--attack"),
        (["leaderbord"], "did you mean leaderboard?"),
        (["leaderboard", "--out", str(tmp_path / "nowhere")], "results folder"),
        (["train", "--model", "unet:size=huge", "--steps", "1"], "huge"),
    ]:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error, (arguments, error)
        assert error.count("\n") == 1


def test_untrained_models_are_flagged(toy):
    assert main(["--no-report", "--model", "unet:channels=(4,8)", "--attack", "fgsm",
                 "--dataset", str(toy.folder), "--untrained", "--cases", "case_000", "--out", str(toy.root / "u")]) == 0  # fmt: skip
    assert toy.table(toy.root / "u")["flags"].tolist() == ["untrained"]


def test_own_model_by_factory(toy, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef net(num_classes):\n    torch.manual_seed(0)\n    return torch.nn.Conv3d(1, num_classes, 3, padding=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--no-report", "--model", "mine:net", "--attack", "fgsm", "--dataset", str(toy.folder),
                 "--cases", "case_000", "--out", str(toy.root / "u")]) == 0  # fmt: skip
    assert toy.table(toy.root / "u")["surrogate"].tolist() == ["mine:net"]


def test_check_finds_a_tampered_table(toy, capsys):
    toy.recorded("--attack", "fgsm")
    path = toy.root / "results" / "toy" / "white_box.csv"
    path.write_text(path.read_text().replace("fgsm", "pgd"))
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 1
    assert "white_box.csv" in capsys.readouterr().out
    assert main(["leaderboard", "--out", str(toy.root / "results")]) == 0
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["run", "--help"]])
def test_answers_without_importing_torch(arguments):
    code = (
        "import sys\nfrom robustvox.benchmark.cli import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'monai', 'pandas', 'scipy'} & set(sys.modules)\nassert not heavy, heavy\nsys.exit(code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "model" in result.stdout


def test_python_m_benchmark_in_the_clone():
    from pathlib import Path

    repository = Path(__file__).resolve().parents[3]
    result = subprocess.run(
        [sys.executable, "-m", "benchmark", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=repository,
    )
    assert result.returncode == 0, result.stderr
    assert "mamba_unet" in result.stdout


def test_without_an_install_it_says_how(tmp_path):
    from pathlib import Path

    repository = Path(__file__).resolve().parents[3]
    (tmp_path / "benchmark").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "benchmark" / name).write_text((repository / "benchmark" / name).read_text())
    # -S leaves site-packages out, as on a machine without the install.
    result = subprocess.run(
        [sys.executable, "-S", "-m", "benchmark", "list"], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert result.returncode == 2
    assert "pip install -e ." in result.stderr
    assert "Traceback" not in result.stderr
