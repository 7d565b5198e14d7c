"""Saved predictions: what comes back is what was scored, on the voxels of the file; what does not belong is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.records.predictions import open_predictions, read_unit, save_prediction
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.records.volumes import PREDICTION, PredictionError, as_stored, attach_note, read_note
from robustvox.datasets import CaseError, IntensityWindow, Volume
from robustvox.datasets.base import Stored
from robustvox.datasets.geometry import turn

UNIT = Unit(
    dataset="toy", case="c1", attack="pgd:eps=8/255", surrogate="unet", surrogate_sha256="ab", target="segresnet",
    target_sha256="cd", protocol="robustvox-1", seed=0, data_sha256="ef",
)  # fmt: skip
AFFINE = np.array([[-0.9, 0.1, 0, 5], [0.1, 1.2, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def volume(affine: np.ndarray = AFFINE) -> Volume:
    label = np.random.default_rng(0).integers(0, 3, (6, 5, 7)).astype(np.int16)
    return Volume(
        "c1", label[None].astype(np.float32) / 2, label, (0.9, 1.2, 2.5), affine, IntensityWindow(0.0, 1.0)
    )


@pytest.mark.parametrize("highest", [2, 255, 256, 32767])
def test_every_class_comes_back(tmp_path, highest):
    case = volume()
    prediction = np.where(case.label == 2, highest, case.label).astype(np.int16)
    path = save_prediction(tmp_path, case, prediction, UNIT)
    assert path == tmp_path / "segresnet" / "unet" / "pgd_eps=8_255" / "c1.nii.gz"
    (found,), refused = open_predictions(tmp_path, "c1")
    assert refused == []
    assert found.unit == read_unit(path) == UNIT
    np.testing.assert_array_equal(found.load(case, highest + 1), prediction)
    stored = nib.load(path)
    assert stored.get_data_dtype() == (np.uint8 if highest < 256 else np.int16)
    np.testing.assert_allclose(stored.affine, AFFINE, atol=1e-6)
    assert stored.header.get_xyzt_units()[0] == "mm"
    assert UNIT.key in str(stored.header["descrip"])
    assert [p.name for p in path.parent.iterdir()] == ["c1.nii.gz"]


def test_it_lies_along_the_axes_of_the_file(tmp_path):
    turned, affine = turn(volume().label, AFFINE, "PIR")
    stored = Stored(
        affine=affine, axes="PIR", shape=(1, *turned.shape), spacing_mm=(1.2, 2.5, 0.9), spacing_source="sform", unit="mm",
        nonzero=(1.0,),
    )  # fmt: skip
    case = replace(volume(), stored=stored)
    path = save_prediction(tmp_path, case, case.label, UNIT)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), turned)
    np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-6)
    (found,), _ = open_predictions(tmp_path, "c1")
    np.testing.assert_array_equal(found.load(case, 3), case.label)


def test_one_name_for_two_checkpoints_is_two_files_and_a_second_run_replaces(tmp_path):
    case, other = volume(), replace(UNIT, target_sha256="99")
    first = save_prediction(tmp_path, case, case.label, UNIT)
    second = save_prediction(tmp_path, case, 2 - case.label, other)
    assert second.name == f"c1-{other.key[:8]}.nii.gz"
    # Data that changed is another unit in the same place.
    assert save_prediction(tmp_path, case, 0 * case.label, replace(UNIT, data_sha256="00")) == first
    clean = save_prediction(tmp_path, case, case.label, replace(UNIT, attack="none", surrogate="segresnet"))
    assert clean == tmp_path / "segresnet" / "clean" / "c1.nii.gz"
    found, _ = open_predictions(tmp_path, "c1")
    assert {saved.unit.key for saved in found} == {read_unit(p).key for p in (first, second, clean)}
    first.write_bytes(first.read_bytes()[:99])
    assert save_prediction(tmp_path, case, case.label, UNIT) == first


def test_no_names_climb_out_of_the_folder(tmp_path):
    evil = replace(UNIT, case="../../c", surrogate="..", target="../x", attack="a/../b:c")
    path = save_prediction(tmp_path / "in", replace(volume(), id=evil.case), volume().label, evil)
    assert (tmp_path / "in") in path.resolve().parents
    assert [saved.unit for saved in open_predictions(tmp_path / "in", evil.case)[0]] == [evil]


def test_a_prediction_is_no_volume_and_the_other_way_round(tmp_path):
    case = volume()
    path = save_prediction(tmp_path, case, case.label, UNIT)
    with pytest.raises(PredictionError, match="found a prediction"):
        read_note(path)
    nib.save(nib.Nifti1Image(case.image[0], AFFINE), tmp_path / "c1.nii.gz")
    (_, refused) = open_predictions(tmp_path, "c1")
    assert len(refused) == 1
    assert "found none; save it again" in refused[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels, affine: (labels[:5], affine), "shape"),
        (lambda labels, affine: (labels + 9, affine), r"labels in 0\.\.2"),
        (lambda labels, affine: (labels, affine @ np.diag([1, 1, 1.01, 1])), "affine"),
    ],
)
def test_what_does_not_fit_the_case_is_refused(tmp_path, change, message):
    path = save_prediction(tmp_path, volume(), volume().label, UNIT)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(*change(np.asarray(image.dataobj), image.affine), image.header), path)
    (found,), _ = open_predictions(tmp_path, "c1")
    with pytest.raises(CaseError, match=message):
        found.load(volume(), 3)


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"dataset": 1}', json.dumps(asdict(UNIT) | {"seed": "0"}).encode()]
)
def test_a_damaged_note_is_one_line(tmp_path, text):
    image = as_stored(volume().label[None], volume(), "x")
    attach_note(image, PREDICTION + text)
    nib.save(image, tmp_path / "c1.nii.gz")
    with pytest.raises(ValueError, match="found a damaged one"):
        read_unit(tmp_path / "c1.nii.gz")
