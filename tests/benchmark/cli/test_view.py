"""``python -m benchmark view`` as a person meets it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.cli import main

from ..first_form import rows_in

ATTACK = "pgd:steps=2,alpha=4/255"


@pytest.fixture
def view(toy, tmp_path):
    """Shows cases of the toy folder, with the records of the toy job, in ``out``."""

    def show(*words: str) -> int:
        data = ["--dataset", str(toy.folder), "--split", "all", "--results", str(tmp_path / "results")]
        return main(["view", *words, *data, "--out", str(tmp_path / "out")])

    show.out = tmp_path / "out" / "toy"
    show.live = ("--model", "unet", "--checkpoint", str(toy.checkpoints["unet"]), "--attack", ATTACK)
    return show


def data_in(path: Path) -> dict[str, Any]:
    """What the script of a page reads."""
    data = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert data is not None
    return json.loads(data[1])


def volumes_in(path: Path) -> dict[str, np.ndarray]:
    """The volumes that a page holds, as a reader of NIfTI sees them."""
    files = data_in(path)["volumes"]
    return {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))).get_fdata()
        for name, text in files.items()
    }


def test_a_case_is_shown_as_it_was_scored(toy, view, capsys):
    toy.recorded("--attack", ATTACK)
    capsys.readouterr()
    assert view("case_000", *view.live) == 0
    printed = capsys.readouterr().out
    assert "Equal to record" in printed
    (path,) = view.out.iterdir()
    assert path.name == "view_case_000_unet_pgd_alpha=4_255_eps=8_255_steps=2.html"
    assert str(path) in printed.replace("\n", "")
    first = path.read_bytes()
    shown = volumes_in(path)
    label = nib.load(toy.folder / "labelsTr" / "case_000.nii.gz").get_fdata()
    np.testing.assert_array_equal(shown["reference"], label)
    assert np.abs(shown["difference"]).max() > 0
    # Each of the three is rounded to the nearest of at most 1/65534 of the window.
    change, wide = shown["adversarial"] - shown["image"], np.ptp(data_in(path)["window"])
    np.testing.assert_allclose(change, shown["difference"], atol=(1.5 / 65534 + 1e-6) * wide)
    assert view("case_000", *view.live) == 0
    assert path.read_bytes() == first


SAVED = ("--save-adversarial", "--attack", ATTACK, "--cases", "case_000")


def test_a_saved_case_is_shown_without_its_network_as_an_attack_shows_it(toy, view, capsys):
    assert toy(*SAVED) == 0
    assert view("case_000", *view.live) == 0
    (path,) = view.out.iterdir()
    live = path.read_bytes()
    path.unlink()
    toy.checkpoints["unet"].unlink()
    capsys.readouterr()
    assert view("case_000") == 0
    assert "Equal to record" in capsys.readouterr().out
    assert path.read_bytes() == live
    predictions = toy.root / "results" / "toy" / "predictions" / "unet"
    saved = nib.load(predictions / "clean" / "case_000.nii.gz")
    np.testing.assert_array_equal(saved.get_fdata(), volumes_in(path)["clean"])
    source = nib.load(toy.folder / "imagesTr" / "case_000.nii.gz")
    np.testing.assert_allclose(saved.affine, source.affine)


def test_transfer_is_shown_per_target_and_a_target_can_be_chosen(toy, view, capsys):
    assert toy(*SAVED, "--transfer", models=("unet", "segresnet")) == 0
    assert view("case_000") == 0
    names = {path.name.partition("_pgd")[0].removeprefix("view_case_000_") for path in view.out.iterdir()}
    assert names == {"unet", "segresnet", "unet_to_segresnet", "segresnet_to_unet"}
    capsys.readouterr()
    assert view("case_000", "--target", "segresnet", "--attack", ATTACK) == 0
    assert capsys.readouterr().out.count("Equal to record") == 2
    assert view("case_000", "--target", "unetr") == 1
    assert "expected saved predictions by unetr" in capsys.readouterr().out


def test_clean_predictions_are_saved_also_where_they_are_recorded_and_change_no_record(toy, view):
    toy.recorded("--attack", "gn")
    assert toy(*SAVED) == 0
    folder = toy.root / "results" / "toy"
    assert (folder / "predictions" / "unet" / "clean" / "case_000.nii.gz").is_file()
    assert view("case_000") == 0
    assert toy("--attack", ATTACK, "--cases", "case_000", out=toy.root / "plain") == 0
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "provenance")} for row in rows_in(path)]
        for root in (folder, toy.root / "plain" / "toy")
        for path in sorted((root / "records").rglob("pgd.jsonl"))
    ]
    assert rows[0] == rows[1]


def test_the_folder_of_a_run_can_still_be_scored_as_a_whole(toy, capsys):
    assert toy(*SAVED) == 0
    words = ["--adversarial", str(toy.root / "results"), "--target", "segresnet", "--checkpoint"]
    data = ["--dataset", str(toy.folder), "--out", str(toy.root / "other"), "--no-report"]
    assert main([*words, str(toy.checkpoints["segresnet"]), *data]) == 0
    assert "refused" not in capsys.readouterr().out


def test_what_was_not_saved_or_does_not_belong_is_one_line_with_the_remedy(toy, view, capsys):
    toy.recorded("--attack", "gn")
    assert view("case_000") == 2
    assert "found none; run it with --save-adversarial (and --recompute" in capsys.readouterr().err
    assert toy(*SAVED) == 0
    (path,) = (toy.root / "results" / "toy" / "predictions" / "unet" / "unet").rglob("*.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[:99])
    capsys.readouterr()
    assert view("case_000") == 1
    printed = capsys.readouterr().out
    assert "expected a complete NIfTI file" in printed
    assert "expected saved predictions of case_000.nii.gz" in printed
    path.write_bytes(whole)
    label = toy.folder / "labelsTr" / "case_000.nii.gz"
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.roll(image.get_fdata(), 1, 0).astype(np.uint8), image.affine), label)
    assert view("case_000") == 1
    assert "use the files and preprocessing it was made with" in capsys.readouterr().out
    assert not view.out.exists()


def test_a_broken_case_is_one_line_and_the_others_are_shown(toy, view, capsys):
    path = toy.folder / "imagesTr" / "case_000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert view("case_000", "case_001", *view.live) == 1
    assert "failed case_000: case case_000:" in capsys.readouterr().out
    assert [p.name.split("_unet")[0] for p in view.out.iterdir()] == ["view_case_001"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["case_000", "--convention", "left"], "--convention among radiological, neurological, got 'left'"),
        (
            ["case_9", "--model", "unet", "--untrained", "--attack", "gn"],
            "expected CASE as a number, `all` or ids of toy, got case_9; ids look like case_000",
        ),
        (["case_9"], "expected CASE as a number, `all` or ids of toy, got case_9"),
        (["case_9", "--adversarial", "no/such", "--target", "unet"], "expected CASE as a number"),
        (["case_000", "--model", "unet", "--untrained", "--attack", "pdg"], "did you mean"),
        (["case_000", "--adversarial", "no/such", "--target", "unet"], "found none at no/such"),
    ],
)
def test_a_mistake_is_one_line(view, words, message, capsys):
    assert view(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not view.out.exists()
