"""``python -m benchmark view`` as a person meets it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.cli import main

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


def volumes_in(path: Path) -> dict[str, np.ndarray]:
    """The volumes that a page holds, as a reader of NIfTI sees them."""
    data = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert data is not None
    files = json.loads(data[1])["volumes"]
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
    np.testing.assert_allclose(
        shown["adversarial"] - shown["image"], shown["difference"], atol=0.01 * np.ptp(shown["image"])
    )
    assert view("case_000", *view.live) == 0
    assert path.read_bytes() == first


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
            "got case_9; ids look like case_000",
        ),
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
