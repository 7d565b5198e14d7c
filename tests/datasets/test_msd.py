"""MSD folders: splits, normalisation, and every way a real archive can be broken."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from robustvox.datasets import CaseError, DatasetError, open_dataset
from robustvox.datasets.msd import MSDFolder, split_ids


def test_a_folder_is_a_dataset(msd_folder):
    data = open_dataset(msd_folder(5))
    assert data.class_names == ("background", "one", "two")
    assert sorted([*data.splits["train"], *data.splits["validation"]]) == sorted(data.splits["all"])
    volume = data.load("case_001")
    assert volume.image.shape == (1, 19, 16, 15)
    assert volume.image.dtype == np.float32
    assert volume.image.min() == 0.0
    assert volume.image.max() == 1.0
    assert volume.spacing_mm == (1.0, 1.0, 2.0)
    np.testing.assert_array_equal(volume.affine, np.diag([1.0, 1.0, 2.0, 1.0]))


def test_normalisation_follows_the_volume_not_the_scanner(msd_folder):
    root = msd_folder(2)
    first = open_dataset(root).load("case_000")
    path = root / "imagesTr" / "case_000.nii.gz"
    stored = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj) * 7000.0 + 11.0, stored.affine), path)
    np.testing.assert_allclose(open_dataset(root).load("case_000").image, first.image, atol=1e-5)


def test_window_inverts(msd_folder):
    volume = open_dataset(msd_folder(1)).load("case_000")
    inside = (volume.image > 0) & (volume.image < 1)
    again = volume.window.apply(volume.window.invert(volume.image))
    np.testing.assert_allclose(again[inside], volume.image[inside], atol=1e-6)


def test_split_depends_on_seed_and_ids_only():
    ids = [f"p{i}" for i in range(50)]
    split = split_ids(ids, 0.2, seed=0)
    assert len(split["validation"]) == 10
    assert not set(split["validation"]) & set(split["train"])
    assert split_ids(ids[::-1], 0.2, seed=0) == split
    assert split_ids(ids, 0.2, seed=1) != split


def test_split_is_pinned():
    # Records of released versions rest on this order; it may never change.
    assert split_ids([f"p{i}" for i in range(10)], 0.3, seed=0)["validation"] == PINNED


PINNED = ("p2", "p4", "p7")


def test_duplicate_ids_are_refused(msd_folder):
    with pytest.raises(DatasetError, match="more than once"):
        split_ids(["a", "b", "a"], 0.5, 0)


def rewrite(root, folder, change):
    path = root / folder / "case_000.nii.gz"
    stored = nib.load(path)
    array, affine = change(np.asarray(stored.dataobj).copy(), stored.affine.copy())
    nib.save(nib.Nifti1Image(array, affine), path)


def nan_voxel(array, affine):
    array[3, 3, 3] = np.nan
    return array, affine


def high_label(array, affine):
    array[0, 0, 0] = 9
    return array, affine


def fractional(array, affine):
    return array.astype(np.float32) * 0.5, affine


def shifted(array, affine):
    affine[0, 3] += 2.0
    return array, affine


FAULTS = [
    ("imagesTr", nan_voxel, "1 NaN"),
    ("imagesTr", lambda a, m: (a[:, :, 0], m), "3-D image"),
    ("imagesTr", lambda a, m: (np.stack([a, a], -1), m), "3-D image"),
    ("imagesTr", lambda a, m: (np.ones_like(a), m), "contrast"),
    ("labelsTr", high_label, r"labels in 0\.\.2, found 0\.\.9"),
    ("labelsTr", fractional, "whole class ids"),
    ("labelsTr", lambda a, m: (a[:-1], m), "image's shape"),
    ("labelsTr", shifted, "one affine"),
]


@pytest.mark.parametrize(("folder", "change", "message"), FAULTS)
def test_a_broken_case_is_refused_with_its_id(msd_folder, folder, change, message):
    root = msd_folder(2)
    rewrite(root, folder, change)
    data = open_dataset(root)
    with pytest.raises(CaseError, match=message) as caught:
        data.load("case_000")
    assert str(caught.value).startswith("case case_000: expected ")
    data.load("case_001")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00broken", b"plain text"])
def test_files_that_are_no_nifti(msd_folder, content):
    root = msd_folder(1)
    (root / "imagesTr" / "case_000.nii.gz").write_bytes(content)
    with pytest.raises(CaseError, match="complete NIfTI"):
        open_dataset(root).load("case_000")


def test_truncated_real_file(msd_folder, data_root):
    root = msd_folder(1)
    (root / "imagesTr" / "case_000.nii.gz").write_bytes((data_root / "bad" / "truncated.nii.gz").read_bytes())
    with pytest.raises(CaseError, match=r"complete NIfTI|image's shape"):
        open_dataset(root).load("case_000")


def test_header_that_claims_terabytes(msd_folder):
    root = msd_folder(1)
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.float32)
    (root / "imagesTr" / "case_000.nii.gz").unlink()
    (root / "imagesTr" / "case_000.nii.gz").write_bytes(
        __import__("gzip").compress(header.binaryblock + b"\0" * 4)
    )
    with pytest.raises(CaseError, match="30000"):
        open_dataset(root).load("case_000")


@pytest.mark.parametrize("path", ["../outside.nii.gz", "/etc/hostname", "imagesTr/../../outside.nii.gz"])
def test_paths_that_leave_the_root(msd_folder, path):
    root = msd_folder(1)
    (root.parent / "outside.nii.gz").write_bytes((root / "imagesTr" / "case_000.nii.gz").read_bytes())
    meta = json.loads((root / "dataset.json").read_text())
    meta["training"][0]["image"] = path
    (root / "dataset.json").write_text(json.dumps(meta))
    data = open_dataset(root)
    with pytest.raises(CaseError, match="inside"):
        data.load(data.splits["all"][0])


def test_link_that_leaves_the_root(msd_folder):
    root = msd_folder(1)
    inner = root / "imagesTr" / "case_000.nii.gz"
    outer = root.parent / "outside.nii.gz"
    outer.write_bytes(inner.read_bytes())
    inner.unlink()
    inner.symlink_to(outer)
    with pytest.raises(CaseError, match="inside"):
        open_dataset(root).load("case_000")


def test_missing_file_and_unknown_case(msd_folder):
    root = msd_folder(1)
    (root / "labelsTr" / "case_000.nii.gz").unlink()
    with pytest.raises(CaseError, match="nothing there"):
        open_dataset(root).load("case_000")
    with pytest.raises(CaseError, match="no such id"):
        open_dataset(root).load("case_777")


@pytest.mark.parametrize(
    "meta",
    [
        "{",
        "[]",
        "{}",
        '{"labels": {"0": "b", "2": "x"}, "training": []}',
        '{"labels": {"0": "b", "1": "x"}, "training": [1]}',
    ],
)
def test_malformed_dataset_json(tmp_path, meta):
    (tmp_path / "dataset.json").write_text(meta)
    with pytest.raises(DatasetError, match="dataset.json"):
        MSDFolder(root=tmp_path, name="x")


def test_unknown_dataset_and_missing_root(tmp_path):
    with pytest.raises(DatasetError, match="phantom"):
        open_dataset("nowhere")
    with pytest.raises(DatasetError, match="ROBUSTVOX_DATA"):
        open_dataset("hippocampus")
    with pytest.raises(DatasetError, match="Task04_Hippocampus"):
        open_dataset("hippocampus", tmp_path)


def test_multichannel_images_are_normalised_per_channel(msd_folder):
    root = msd_folder(1)
    rewrite(root, "imagesTr", lambda a, m: (np.stack([a, a * 1000 + 5], -1), m))
    meta = json.loads((root / "dataset.json").read_text())
    meta["modality"] = {"0": "T1", "1": "T2"}
    (root / "dataset.json").write_text(json.dumps(meta))
    image = open_dataset(root).load("case_000").image
    assert image.shape[0] == 2
    np.testing.assert_allclose(image[0], image[1], atol=1e-4)


def test_ct_folders_use_the_hounsfield_window(msd_folder):
    root = msd_folder(1)
    meta = json.loads((root / "dataset.json").read_text())
    meta["modality"] = {"0": "CT"}
    (root / "dataset.json").write_text(json.dumps(meta))
    window = open_dataset(root).load("case_000").window
    assert (window.low, window.high, window.unit) == (-175.0, 250.0, "HU")


@pytest.mark.real_data
def test_hippocampus_is_what_the_readme_says(data_root):
    data = open_dataset("hippocampus", data_root)
    assert len(data.splits["train"]) == 160
    assert len(data.splits["validation"]) == 40
    for case in data.splits["validation"][:5]:
        volume = data.load(case)
        assert set(np.unique(volume.label)) == {0, 1, 2}
        assert 0.2 < volume.image.mean() < 0.8
