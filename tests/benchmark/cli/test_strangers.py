"""Files of a stranger run no code: whatever they name, no command imports, calls or opens it.

Every kind of file that a command reads gets names of modules that leave a mark when they are imported, and names of
functions that leave one when they are called. All goes through the command line, as for a user.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd
import pytest
import torch
from nibabel.nifti1 import Nifti1Extension

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.packed import read_packed, write_packed
from robustvox.benchmark.records.unit import digest
from robustvox.models import ModelCard, build_model, save_checkpoint

from ..first_form import rows_in

ATTACK = "evil:X:eps=8/255"
MODEL = "evil:net:width=2"
SHELL = "os:system:command=touch CANARY"
MATCHED = f"{ATTACK}@l2~0.02=fgsm:eps=8/255,loss=dice"

EVIL = """
from pathlib import Path
from robustvox.attacks import Uniform
Path(__file__).with_name("CANARY").touch()
class X(Uniform):
    pass
def net(num_classes, width=1):
    import torch
    torch.manual_seed(width)
    return torch.nn.Conv3d(1, num_classes, 1)
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A working folder with ``evil.py``, from which Python would import it; forgets it afterwards."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("evil", None)


def unmarked(folder: Path) -> bool:
    return not (folder / "CANARY").exists() and "evil" not in sys.modules


def key_of(row: dict) -> str:
    """The unit of a row, as the records define it."""
    names = ("dataset", "case", "attack", "surrogate", "surrogate_sha256", "target", "target_sha256",
             "protocol", "seed", "data_sha256")  # fmt: skip
    text = json.dumps({k: row[k] for k in names}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def plant_rows(records: Path, old: str, name: str, **changes: object) -> None:
    """Copy the blocks of a file with other names, their units hashed anew, so that nothing looks edited."""
    rows = rows_in(records / old)
    rows = [row for row in rows if row["attack"] != "none"]
    for row in rows:
        row |= {k: v for k, v in changes.items() if k in row}
    keys = {row["unit"]: key_of(row) for row in rows if row["kind"] != "score"}
    path = records / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row | {"unit": keys[row["unit"]]}) + "\n" for row in rows))


def plant_records(results: Path) -> None:
    records = results / "toy" / "records"
    for model in ("unet", "segresnet"):
        plant_rows(records, f"robustvox-1/{model}/fgsm.jsonl", f"robustvox-1/{model}/a.jsonl", attack=ATTACK)
        plant_rows(records, f"robustvox-1/{model}/fgsm.jsonl", f"robustvox-1/{model}/m.jsonl", attack=MATCHED)
    for at, name in enumerate((SHELL, MODEL)):
        plant_rows(
            records, "robustvox-1/unet/fgsm.jsonl", f"robustvox-1/x{at}/fgsm.jsonl",
            surrogate=name, target=name, surrogate_sha256="ab" * 32, target_sha256="ab" * 32,
        )  # fmt: skip
    path = records / "robustvox-1" / "provenance.jsonl"
    stored = json.loads(path.read_text().splitlines()[0])
    entry = stored["entry"] | {"attacks": [ATTACK], "cases": ["case_000"]}
    path.write_text(path.read_text() + json.dumps({"id": digest(entry), "entry": entry}) + "\n")


def plant_checks(results: Path) -> None:
    found = {
        "dataset": "toy", "protocol": "robustvox-1", "surrogate": SHELL, "surrogate_sha256": "ab" * 32,
        "attack": ATTACK, "check": "C2", "slug": "evil:X", "status": "fail", "flag": "C2:fail", "number": 1.0,
        "rule": "evil:X", "detail": MODEL, "cases": ["case_000"], "seed": 0, "queries": 1, "robustvox": "0",
        "commit": "0", "torch": "0",
    }  # fmt: skip
    (results / "toy" / "checks").mkdir()
    (results / "toy" / "checks" / "robustvox-1.jsonl").write_text(json.dumps(found) + "\n")


def plant_notes(results: Path) -> Path:
    """Saved volumes whose notes name a stranger's attack and model."""
    folder = results / "toy" / "adversarial"
    paths = sorted(folder.rglob("*.nii.gz"))
    for path, attack in zip(paths, (ATTACK, MATCHED), strict=True):
        volume: Any = nib.load(path)
        (extension,) = volume.header.extensions
        text = extension.get_content().rstrip(b"\0").removeprefix(b"robustvox ")
        note = json.loads(text) | {"attack": attack, "surrogate": SHELL}
        values: Any = nib.Nifti1Image(volume.get_fdata(dtype="float32"), volume.affine, volume.header)
        values.header.extensions.clear()
        values.header.extensions.append(Nifti1Extension(6, b"robustvox " + json.dumps(note).encode()))
        nib.save(values, path)
    return folder


def plant_models(root: Path, write_bundle) -> list[Path]:
    """A checkpoint's card, a bundle's configuration and nnU-Net's plans that name a stranger's code."""
    network = torch.nn.Conv3d(1, 3, 1)
    bundle = write_bundle(network, {"_target_": "evil.net", "num_classes": 3}, classes=["a", "b", "c"])
    paths = [bundle]
    for name, architecture, arguments in (
        ("named", "evil:net", {}),
        ("argued", "unet", {"act": "evil:X", "_target_": "evil.net"}),
    ):
        card = ModelCard(
            architecture=architecture, arguments=arguments, in_channels=1,
            class_names=("background", "one", "two"), roi_size=(16, 16, 16), dataset=SHELL, window="evil:X",
        )  # fmt: skip
        paths.append(root / f"{name}.safetensors")
        small = build_model("unet", in_channels=1, num_classes=3, roi_size=(16, 16, 16), size="small")
        save_checkpoint(paths[-1], small, card)
    for name, target, operation in (("class", "evil.net", "torch.nn.Conv3d"), ("operation", None, "evil.X")):
        folder = root / f"nnunet_{name}"
        (folder / "fold_0").mkdir(parents=True)
        target = target or "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        plan = {
            "patch_size": [8, 8, 8], "preprocessor_name": "DefaultPreprocessor", "spacing": [1, 1, 1],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
            "resampling_fn_data": "evil.X",
            "architecture": {"network_class_name": target, "arch_kwargs": {"conv_op": operation},
                             "_kw_requires_import": ["conv_op"]},
        }  # fmt: skip
        plans = {"image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2],
                 "configurations": {"3d_fullres": plan}, "experiment_planner_used": "evil.X"}  # fmt: skip
        labels = {"background": 0, "one": 1, "two": 2}
        data = {"channel_names": {"0": "MRI"}, "labels": labels, "overwrite_image_reader_writer": "evil.X"}
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(data))
        checkpoint = {"network_weights": network.state_dict(), "trainer_name": "evil.X",
                      "init_args": {"configuration": "3d_fullres"}}  # fmt: skip
        torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
        paths.append(folder)
    return paths


def plant_dataset(folder: Path) -> None:
    path = folder / "dataset.json"
    meta = json.loads(path.read_text())
    meta |= {"reference": MODEL, "description": SHELL, "overwrite_image_reader_writer": "evil.X"}
    meta["labels"] |= {"1": "evil:X"}
    path.write_text(json.dumps(meta))


def plant_bands(results: Path) -> None:
    """The frequency study's cases under a stranger's names."""
    path = results / "toy" / "frequency" / "cases.csv.gz"
    rows = read_packed(path)
    planted = rows.assign(attack=ATTACK, surrogate=SHELL, target=MODEL)
    write_packed(path, pd.concat([rows, planted]).to_csv(index=False))


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # long names, small figures
def test_no_command_runs_what_a_file_names(toy, outside, write_bundle, capsys):
    results, one = toy.root / "results", ("--cases", "case_000")
    data = ("--dataset", str(toy.folder))
    honest = (
        "--model",
        "unet",
        "--checkpoint",
        str(toy.checkpoints["unet"]),
        "--attack",
        "fgsm",
        *data,
        *one,
    )
    files = [a for path in toy.checkpoints.values() for a in ("--checkpoint", str(path))]
    bands = ["frequency", *honest, "--bands", "low_high", "--cuts", "0.5", "--out", str(results)]
    assert toy("--attack", "fgsm", "--save-adversarial", *one, models=("unet", "segresnet")) == 0
    assert main(bands) == 0
    plant_records(results)
    plant_checks(results)
    plant_bands(results)
    plant_dataset(toy.folder)
    saved, models = plant_notes(results), plant_models(toy.root, write_bundle)
    capsys.readouterr()

    commands = [
        (["verify", str(results), *data, *files, "--sample", "100"], 1),
        (["run", *honest, "--out", str(results)], 0),
        (["run", "--adversarial", str(saved), "--target", "unet", *files[:2], *data, "--out", str(results)], 0),
        (["check", *honest, "--only", "C2", "--out", str(results)], None),
        (["compare", "--model", "unet", "--model", "segresnet", "--dataset", "toy", "--out", str(results)], 0),
        (bands, 0),
        ([*bands[:1], "--adversarial", str(saved), "--target", "unet", *files[:2], *data, *bands[-6:]], 0),
        (["figures", "--dataset", "toy", "--results", str(results), "--out", "figures"], 0),
        (["leaderboard", "--out", str(results)], 0),
        (["leaderboard", "--out", str(results), "--check"], 0),
        (["cite", "--out", str(results)], 0),
        (["data", *data], 0),
        (["list"], 0),
        *((["run", "--model", str(path), "--attack", "fgsm", *data, *one], 2) for path in models),
        *((["run", "--model", "unet", "--checkpoint", str(p), "--attack", "fgsm", *data, *one], 2) for p in models),
    ]  # fmt: skip
    ran = []
    for command, expected in commands:
        code = main(command)
        said = capsys.readouterr()
        if not unmarked(outside):
            ran.append(command[:2])
            (outside / "CANARY").unlink(missing_ok=True)
            sys.modules.pop("evil", None)
            continue
        assert code == expected or (expected is None and code in (0, 1)), (command, said)
        assert "Traceback" not in said.out + said.err, command
    assert ran == []


def test_verify_says_what_has_to_be_typed_and_goes_on(toy, outside, capsys):
    assert toy("--attack", "fgsm", "--cases", "case_000", models=("unet", "segresnet")) == 0
    plant_records(toy.root / "results")
    files = [a for path in toy.checkpoints.values() for a in ("--checkpoint", str(path))]
    command = ["verify", str(toy.root / "results"), "--dataset", str(toy.folder), *files, "--sample", "100"]
    capsys.readouterr()
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("agrees within") for line in lines) == 4
    # Three refusals, and two models that no run of the provenance has.
    assert lines[-1].endswith("4 rows recomputed, 5 problems")
    assert any("found 'evil:X'" in line and "--attack evil:X" in line for line in lines)
    assert any(f"found {MODEL!r}" in line and "--model" in line for line in lines)
    assert any("found 'os:system:command=touch CANARY'" in line for line in lines)
    assert unmarked(outside)


def test_what_is_typed_may_run(toy, outside, capsys):
    """An own attack and an own model are recomputed by whoever types them."""
    run = ["--no-report", "--attack", ATTACK, "--dataset", str(toy.folder), "--cases", "case_000"]
    assert main([*run, "--model", MODEL, "--out", str(toy.root / "results")]) == 0
    sys.modules.pop("evil")
    (outside / "CANARY").unlink()
    command = ["verify", str(toy.root / "results"), "--dataset", str(toy.folder)]
    capsys.readouterr()
    assert main(command) == 1
    assert unmarked(outside)
    assert main([*command, "--model", MODEL]) == 1
    assert "found 'evil:X'" in capsys.readouterr().out
    sys.modules.pop("evil")
    assert main([*command, "--model", "evil:net:width=3", "--attack", "evil:X"]) == 1
    assert "which is somebody's own" in capsys.readouterr().out
    assert main([*command, "--model", MODEL, "--attack", "evil:X"]) == 0
    assert "2 rows recomputed, 0 problems" in capsys.readouterr().out


@pytest.mark.parametrize("name", [SHELL, "evil:net", "pathlib:Path", "json:decoder"])
def test_a_typed_attack_must_be_one(name, toy, outside, capsys):
    assert toy("--attack", name) == 2
    error = capsys.readouterr().err
    assert "to be a subclass of robustvox.attacks.Attack, found" in error
    assert error.count("\n") == 1
    sys.modules.pop("evil", None)
    assert not (outside.parent / "CANARY").exists()


def test_verify_asks_before_a_costly_row(toy, capsys):
    assert toy("--attack", "pgd:steps=1,alpha=8/255", "--cases", "case_000") == 0
    records = toy.root / "results" / "toy" / "records"
    huge = "pgd:alpha=8/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=100000000"
    plant_rows(records, "robustvox-1/unet/pgd.jsonl", "robustvox-1/unet/huge.jsonl", attack=huge)
    command = ["verify", str(toy.root / "results"), "--dataset", str(toy.folder), "--sample", "100",
               "--checkpoint", str(toy.checkpoints["unet"])]  # fmt: skip
    capsys.readouterr()
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "expected at most 5000 forward and backward passes" in out
    assert "say --max-cost 200000002 to compute it" in out
    assert out.count("not recomputed: unit") == 1
    assert out.count("agrees within") == 2
    assert main([*command, "--max-cost", "3"]) == 1
    assert "say --max-cost 4 to compute it" in capsys.readouterr().out
