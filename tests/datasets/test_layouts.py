"""Declared splits, identity by path, files that are not data, and singleton axes, in every layout."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from robustvox.datasets import CaseError, DatasetError, open_dataset
from robustvox.datasets.folds import five_folds

from .layouts import LAYOUTS, Stored, example, put, write

TEN = {f"case_{n:03d}": example(n) for n in range(10)}


def edit(path, **changes):
    meta = json.loads(path.read_bytes())
    path.write_text(json.dumps({**meta, **changes}))


def entry(name, **more):
    return {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz", **more}


# ---- kind 5: a declared split is honoured


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_names_and_splits_the_same_cases_alike(tmp_path, layout):
    data = open_dataset(write(layout, tmp_path, TEN))
    assert sorted(data.splits["all"]) == sorted(TEN)
    assert data.splits["validation"] == ("case_000", "case_006")
    volume = data.load("case_003")
    np.testing.assert_array_equal(volume.label, TEN["case_003"].label)


@pytest.mark.parametrize("layout", ["msd", "datalist"])
def test_lists_of_a_file_are_its_splits(tmp_path, layout):
    path = write(layout, tmp_path, TEN)
    lists = {
        "training": [entry("case_000")],
        "validation": [entry("case_001"), entry("case_002")],
        "test": [entry("case_003"), "imagesTs/unlabelled.nii.gz", {"image": "imagesTs/other.nii.gz"}],
    }
    if layout == "datalist":
        for name in TEN:
            (tmp_path / f"scans/{name}_0000.nii.gz").rename(tmp_path / f"scans/{name}.nii.gz")
        lists = json.loads(json.dumps(lists).replace("imagesTr", "scans"))
    edit(path / "dataset.json" if layout == "msd" else path, **lists)
    splits = open_dataset(path).splits
    assert splits["train"] == ("case_000",)
    assert splits["validation"] == ("case_001", "case_002")
    assert splits["test"] == ("case_003",)
    assert "lists of" in open_dataset(path).provenance["split"]


def test_folds_of_a_list(tmp_path):
    write("msd", tmp_path, TEN)
    edit(tmp_path / "dataset.json", training=[entry(name, fold=n % 3) for n, name in enumerate(TEN)])
    data = open_dataset(tmp_path)
    assert (
        data.splits["validation"] == data.splits["fold_0"] == ("case_000", "case_003", "case_006", "case_009")
    )
    assert data.splits["fold_1"] == ("case_001", "case_004", "case_007")
    assert not set(data.splits["train"]) & set(data.splits["validation"])
    assert data.provenance["split"] == "fold 0 of dataset.json"


def test_folds_of_nnunet(tmp_path):
    write("nnunet_v2", tmp_path, TEN)
    # Without a file, nnU-Net's own.
    own = [fold.validation for fold in five_folds(list(TEN))]
    assert [open_dataset(tmp_path).splits[f"fold_{k}"] for k in range(5)] == own
    names = list(TEN)
    folds = [
        {
            "train": [n for i, n in enumerate(names) if i % 5 != k],
            "val": [n for i, n in enumerate(names) if i % 5 == k],
        }
        for k in range(5)
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    data = open_dataset(tmp_path)
    assert data.splits["validation"] == ("case_000", "case_005")
    assert data.splits["fold_1"] == ("case_001", "case_006")
    data.load("case_001")


def test_a_csv_may_declare_folds(tmp_path):
    path = write("csv", tmp_path, TEN)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0] + ",fold", *(f"{row},{n % 5}" for n, row in enumerate(rows[1:]))]))
    assert open_dataset(path).splits["validation"] == ("case_000", "case_005")


@pytest.mark.parametrize(
    "training",
    [
        [{"image": 3, "label": "x"}],
        [{"image": [], "label": "x"}],
        [entry("a", fold="zero")],
        "imagesTr",
        [],
        [{"image": "._a.nii.gz", "label": "._a.nii.gz"}],
    ],
)
def test_lists_that_are_none(tmp_path, training):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": training}))
    with pytest.raises(DatasetError, match="expected"):
        open_dataset(path)


# ---- kind 6: identity is the whole path


@pytest.mark.parametrize("layout", ["csv", "datalist"])
def test_one_file_name_in_every_folder_takes_the_folder(tmp_path, layout):
    pairs = [(f"sub-{n}/img.nii.gz", f"sub-{n}/seg.nii.gz") for n in range(4)]
    for n, (image, label) in enumerate(pairs):
        case = example(n)
        put(tmp_path / image, case.channels[0], case.affine)
        put(tmp_path / label, case.label, case.affine)
    if layout == "csv":
        path = tmp_path / "list.csv"
        path.write_text("image,label\n" + "".join(f"{i},{s}\n" for i, s in pairs))
    else:
        path = tmp_path / "list.json"
        path.write_text(json.dumps({"training": [{"image": i, "label": s} for i, s in pairs]}))
    data = open_dataset(path)
    assert sorted(data.splits["all"]) == [f"sub-{n}/img" for n in range(4)]
    np.testing.assert_array_equal(data.load("sub-2/img").label, example(2).label)


# ---- kind 7: files that are not data are not data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_files_are_no_cases(tmp_path, layout):
    path = write(layout, tmp_path, TEN)
    before = dict(open_dataset(path).splits)
    for file in list(tmp_path.rglob("*.nii.gz")):
        file.with_name("._" + file.name).write_bytes(b"\x00\x05\x16\x07" + bytes(100))
        (file.parent / ".DS_Store").write_bytes(b"\0")
    if path.suffix == ".csv":
        with path.open("a") as file:
            file.write("hidden,scans/._case_000_0000.nii.gz,labelsTr/._case_000.nii.gz\n")
    elif "training" in (meta := json.loads((path if path.is_file() else path / "dataset.json").read_bytes())):
        hidden = {"image": "imagesTr/._case_000.nii.gz", "label": "labelsTr/._case_000.nii.gz"}
        edit(path if path.is_file() else path / "dataset.json", training=[*meta["training"], hidden])
    assert dict(open_dataset(path).splits) == before


def rgb(array):
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    color = np.zeros(array.shape, kind)
    color["R"] = array.clip(0, 255).astype("u1")
    return color


def rgba(array):
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    return np.zeros(array.shape, kind)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "found"),
    [(rgb, "RGB voxels of 24 bits"), (rgba, "RGBA"), (lambda a: a.astype(np.complex64), "complex64 voxels")],
)
def test_voxels_that_are_no_numbers_are_refused_case_by_case(tmp_path, layout, change, found):
    path = write(layout, tmp_path, {"a": example(), "b": example(1)})
    (file,) = [f for f in tmp_path.rglob("a*.nii.gz") if f.parent.name != "labelsTr"]
    image = nib.load(file)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), file)
    data = open_dataset(path)
    with pytest.raises(CaseError, match=f"one real number per voxel, found {found}"):
        data.load("a")
    data.load("b")


# ---- kind 10: what a file may also look like


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_singleton_axes_of_image_and_label(tmp_path, layout, extra):
    case = example()
    long = Stored(
        [c.reshape(*c.shape, *extra) for c in case.channels],
        case.label.reshape(*case.label.shape, *extra),
        case.affine,
    )
    volume = open_dataset(write(layout, tmp_path, {"a": long})).load("a")
    np.testing.assert_array_equal(volume.label, case.label)
    assert volume.image.shape == (1, *case.label.shape)


def test_channels_in_the_fifth_axis(tmp_path):
    case = example()
    both = np.stack([case.channels[0], case.channels[0] * 9], -1)[:, :, :, None]
    path = write("msd", tmp_path, {"a": Stored([both], case.label, case.affine)}, modality=("T1", "T2"))
    assert open_dataset(path).load("a").image.shape == (2, *case.label.shape)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_byte_order_marks(tmp_path, layout, encoding):
    path = write(layout, tmp_path, TEN)
    for file in [*tmp_path.glob("*.json"), *(tmp_path.glob("*.csv") if encoding != "utf-32" else ())]:
        file.write_bytes(file.read_text().encode(encoding))
    assert sorted(open_dataset(path).splits["all"]) == sorted(TEN)


@pytest.mark.parametrize("layout", ["nnunet_v2", "nnunet_v2_listed", "msd"])
def test_voxels_nobody_labelled(tmp_path, layout):
    case = example()
    label = case.label.copy()
    label[0, 0, :4] = 3
    path = write(
        layout,
        tmp_path,
        {"a": Stored(case.channels, label, case.affine)},
        labels=("background", "one", "two", "ignore"),
    )
    data = open_dataset(path)
    assert data.class_names == ("background", "one", "two")
    volume = data.load("a")
    np.testing.assert_array_equal(volume.ignore, label == 3)
    np.testing.assert_array_equal(volume.label, case.label)


# ---- kind 4 and 5: lists of files, a channel each


@pytest.mark.parametrize("modality", ["MRI", None])
def test_one_name_for_lists_of_files_means_each_of_them(tmp_path, modality):
    case = example()
    path = write("datalist", tmp_path, {"a": Stored((case.channels[0],) * 3, case.label, case.affine)})
    meta = {**json.loads(path.read_text()), "modality": modality}
    path.write_text(json.dumps(meta if modality else {k: v for k, v in meta.items() if k != "modality"}))
    assert open_dataset(path).load("a").image.shape == (3, *case.label.shape)


def test_one_ct_for_several_channels_is_not_applied_to_all(tmp_path):
    case = example()
    path = write("datalist", tmp_path, {"a": Stored((case.channels[0],) * 2, case.label, case.affine)})
    edit(path, modality="CT")
    with pytest.raises(DatasetError, match="a name for each of 2 channels as \"modality\" .* found 'CT'"):
        open_dataset(path)
    edit(path, modality={"0": "CT", "1": "PET"})
    assert open_dataset(path).load("a").window.unit == "HU, a.u."
