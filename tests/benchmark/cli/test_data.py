"""``python -m benchmark data``: what it finds, what it says, its exit codes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from robustvox.benchmark.cli import main


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """No test may reach for the network, nor for the folder that the environment names."""

    def refuse(*_args, **_options):
        raise Exception("no network")

    monkeypatch.setattr("monai.apps.datasets.DecathlonDataset", refuse)
    monkeypatch.delenv("ROBUSTVOX_DATA", raising=False)


def verify(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def test_a_sound_copy(msd_folder, tmp_path, capsys):
    root, out = msd_folder(4), tmp_path / "kept" / "findings.json"
    assert verify("--dataset", root, "--out", out) == 0
    text = capsys.readouterr()
    assert "validation" in text.out
    assert "3 of 3" in text.out
    assert text.err == ""
    findings = json.loads(out.read_text())
    assert {c["status"] for c in findings["cases"]} == {"found"}
    first = findings["cases"][0]
    name = next(n for n in first["sha256"] if "images" in n)
    assert first["sha256"][name] == hashlib.sha256((root / name).read_bytes()).hexdigest()
    assert (first["spacing_mm"], first["orientation"], first["labels"]) == ([1.0, 1.0, 2.0], "RAS", [0, 1, 2])
    assert len(first["shape"]) == 4


def test_missing_and_broken_cases(msd_folder, tmp_path, capsys):
    root, out = msd_folder(5), tmp_path / "findings.json"
    (root / "labelsTr" / "case_001.nii.gz").unlink()
    (root / "imagesTr" / "case_003.nii.gz").write_bytes(b"")
    assert verify("--dataset", root, "--out", out) == 1
    text = capsys.readouterr().out
    assert "missing case case_001: expected the file" in text
    assert "refused case case_003: expected a complete NIfTI file, found case_003.nii.gz of 0 bytes" in text
    found = {c["id"]: c["status"] for c in json.loads(out.read_text())["cases"]}
    assert found == {
        f"case_{n:03d}": s for n, s in enumerate(["found", "missing", "found", "refused", "found"])
    }


@pytest.mark.parametrize(
    ("name", "place"), [("btcv", "imagesTr"), ("hecktor", "gtvt"), ("flare22", "imagesVal")]
)
def test_nothing_there_is_one_line_of_help(tmp_path, capsys, name, place):
    assert verify("--dataset", name, "--data-root", tmp_path) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert len(text.err.splitlines()) == 1
    assert "register at" in text.err
    assert place in text.err


def test_usage_errors(msd_folder, tmp_path, capsys):
    root = msd_folder(2)
    blocked = tmp_path / "file"
    blocked.write_text("")
    for arguments in (
        ("--dataset", "btvc"),
        ("--dataset", root, "--split", "holdout"),
        ("--dataset", root, "--out", blocked / "x.json"),
        ("--dataset", "acdc", "--data-root", tmp_path, "--download"),
        ("--dataset", "spleen", "--download"),
    ):
        assert verify(*arguments) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_download_is_only_done_when_asked(tmp_path, capsys):
    assert verify("--dataset", "msd_task09", "--data-root", tmp_path) == 2
    assert "medicaldecathlon.com" in capsys.readouterr().err
    assert verify("--dataset", "msd_task09", "--data-root", tmp_path, "--download") == 2
    assert "no network" in capsys.readouterr().err


def test_one_split_of_a_registered_dataset(tmp_path, capsys):
    from ...datasets.test_published import awkward, write_pair

    for n in (1, 2):
        write_pair(
            tmp_path,
            f"BTCV/imagesTr/img{n:04d}.nii.gz",
            f"BTCV/labelsTr/label{n:04d}.nii.gz",
            awkward("oblique"),
        )
    assert verify("--dataset", "btcv", "--data-root", tmp_path, "--split", "validation") == 1
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.strip().startswith("validation"))
    assert row.split()[1:5] == ["12", "2", "10", "0"]
    assert "never spleen" not in text
    assert "right kidney" in text


def test_the_phantom_has_no_files(monkeypatch, capsys):
    from robustvox.datasets import DATASETS
    from robustvox.datasets.phantom import Phantom

    monkeypatch.setitem(DATASETS, "phantom", lambda _root: Phantom(train=1, validation=1))
    assert verify("--dataset", "phantom") == 0
    assert "8 of 8" in capsys.readouterr().out


def test_ids_from_files_are_never_markup(table_with_odd_names, capsys):
    assert verify("--dataset", table_with_odd_names) == 1
    assert "[red]odd[/red]" in capsys.readouterr().out


@pytest.fixture
def table_with_odd_names(tmp_path):
    import nibabel as nib

    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(np.arange(60.0).reshape(3, 4, 5), np.eye(4)), tmp_path / f"{name}.nii.gz")
        nib.save(
            nib.Nifti1Image(np.eye(3, 4, dtype=np.uint8)[..., None].repeat(5, -1), np.eye(4)),
            tmp_path / f"{name}_l.nii.gz",
        )
    path = tmp_path / "list.csv"
    path.write_text(
        "id,image,label\na,a.nii.gz,a_l.nii.gz\nb,b.nii.gz,b_l.nii.gz\n[red]odd[/red],c.nii.gz,a_l.nii.gz\n"
    )
    return path
