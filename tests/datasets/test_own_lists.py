"""Lists, headers and labels as honest people write them: converted where they can mean one thing, else refused with a remedy."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from robustvox.datasets import CaseError, DatasetError, open_dataset

from .layouts import LAYOUTS, Stored, example, put, write

FIVE = {f"case_{n:03d}": example(n) for n in range(5)}
NAMES = list(FIVE)


@pytest.fixture
def folder(tmp_path):
    """An MSD folder of five cases, beside which lists may lie."""
    return write("msd", tmp_path, FIVE)


def pair(name, **more):
    return {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz", **more}


def table(folder, rows, header="image,label,split", side=None):
    (folder / "cohort.csv").write_text("\n".join([header, *rows]) + "\n")
    if side is not None:
        (folder / "cohort.json").write_text(json.dumps(side))
    return folder / "cohort.csv"


def row(name, *more, end="labelsTr"):
    return ",".join([f"imagesTr/{name}.nii.gz", f"{end}/{name}.nii.gz" if end else "", *more])


# ---- kind 3: what says that it is CT is in HU


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (lambda hu: hu.clip(-1024) + 1024, r"found 0..[0-9.]+, nothing below 0 and \d+% above 250"),
        (lambda hu: np.rint((hu - hu.min()) / np.ptp(hu) * 255).astype(np.uint8), "found 0..255, as pictures of 8 bits"),
    ],
    ids=["offset", "picture"],
)  # fmt: skip
def test_a_ct_with_an_offset_or_of_8_bits_is_refused(tmp_path, layout, stored, found):
    case = example()
    hu = case.channels[0] - 60
    hu[:3] = -1024.0
    one = {"a": Stored((hu,), case.label, case.affine), "b": Stored((stored(hu),), case.label, case.affine)}
    data = open_dataset(write(layout, tmp_path, one, modality=("CT",)))
    assert data.load("a").window.unit == "HU"
    with pytest.raises(CaseError, match=f"case b: expected intensities in HU, {found}.*or do not name"):
        data.load("b")


@pytest.mark.parametrize("key", ["Channels", "channel", "Modality", "modalities", "channel names"])
@pytest.mark.parametrize("kind", ["csv", "datalist"])
def test_a_key_that_would_be_passed_over_is_refused(folder, key, kind):
    path = table(folder, [row(n, "train") for n in NAMES], side={key: ["CT"]})
    if kind == "datalist":
        path = folder / "list.json"
        path.write_text(json.dumps({key: "CT", "training": [pair(n) for n in NAMES]}))
    with pytest.raises(DatasetError, match=f"expected the key .*found '{key}', which is not read; rename it"):
        open_dataset(path)


# ---- kind 5: a declared split is honoured


@pytest.mark.parametrize("header", ["Image, Label ,Split", "IMAGE,LABEL,SPLIT"])
def test_columns_are_known_however_they_are_written(folder, header):
    sets = ("train", "train", "Val", "test", "test")
    data = open_dataset(table(folder, [row(n, s) for n, s in zip(NAMES, sets, strict=True)], header))
    assert (data.splits["validation"], data.splits["test"]) == (("case_002",), ("case_003", "case_004"))


def test_a_split_by_another_name_is_refused(folder):
    path = table(folder, [row(n, "train") for n in NAMES], "image,label,subset")
    with pytest.raises(DatasetError, match="a column called split .*found it in 'subset'; rename"):
        open_dataset(path)


def test_a_column_that_comes_twice_is_refused(folder):
    with pytest.raises(DatasetError, match="each column once .*'label' twice"):
        open_dataset(table(folder, [row(n, "x") for n in NAMES], "image,label,Label"))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_separator_is_told(folder, mark):
    (folder / "cohort.csv").write_text(f"image{mark}label\n" + row("case_000").replace(",", mark) + "\n")
    with pytest.raises(DatasetError, match="separate cells by commas"):
        open_dataset(folder / "cohort.csv")


@pytest.mark.parametrize("label", ["", None])
def test_test_cases_without_a_label_are_no_cases(folder, label):
    path = table(folder, [row(n, "train") for n in NAMES[:4]] + [row(NAMES[4], "test", end="")])
    assert "case_004" not in open_dataset(path).splits["all"]
    lists = {
        "training": [pair(n) for n in NAMES[:4]],
        "test": [{**pair(NAMES[4]), "label": label}],
        "validation": None,
    }
    (folder / "list.json").write_text(json.dumps(lists))
    assert sorted(open_dataset(folder / "list.json").splits["all"]) == NAMES[:4]
    with pytest.raises(DatasetError, match="image and label in line 2"):
        open_dataset(table(folder, [row(NAMES[0], "train", end="")]))


def test_a_case_that_a_fold_lists_twice_is_held_out_once(tmp_path):
    root = write("nnunet_v2", tmp_path, FIVE)
    folds = [{"train": NAMES[1:], "val": [NAMES[0], NAMES[0]]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    data = open_dataset(root)
    assert data.splits["validation"] == data.splits["fold_0"] == ("case_000",)


@pytest.mark.parametrize("ending", [".nii.gz", None])
def test_the_ending_of_an_nnunet_folder_must_be_that_of_its_files(tmp_path, ending):
    root = write("nnunet_v2", tmp_path, FIVE)
    for path in (root / "imagesTr").glob("*.gz"):
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    meta = json.loads((root / "dataset.json").read_text())
    meta.pop("file_ending")
    (root / "dataset.json").write_text(json.dumps({**meta, **({"file_ending": ending} if ending else {})}))
    with pytest.raises(
        DatasetError, match=r"found none among 5 files such as case_000_0000.nii; .*correct the"
    ):
        open_dataset(root)


def test_the_json_of_an_nnunet_folder_is_no_list(tmp_path):
    root = write("nnunet_v2", tmp_path, FIVE)
    with pytest.raises(DatasetError, match="give the folder"):
        open_dataset(root / "dataset.json")


# ---- kind 6: identity is the whole path


def test_paths_of_windows_are_paths(folder):
    listed = [{key: path.replace("/", "\\") for key, path in pair(n).items()} for n in NAMES]
    (folder / "list.json").write_text(json.dumps({"training": listed}))
    rows = [row(n, "train").replace("/", "\\") for n in NAMES]
    for path in (folder / "list.json", table(folder, rows)):
        data = open_dataset(path)
        assert sorted(data.splits["all"]) == NAMES
        assert data.load(NAMES[0]).image.size


def test_ids_that_differ_in_letter_case_are_two_cases(folder):
    path = table(
        folder, [f"{n},{row(n)}" for n in NAMES[:1]] + [f"Case_000,{row(NAMES[1])}"], "id,image,label"
    )
    data = open_dataset(path)
    assert not np.array_equal(data.load("case_000").image, data.load("Case_000").image)


def test_a_link_that_leads_out_of_the_folder_says_so(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("big") / "imagesTr"
    shutil.move(folder / "imagesTr", elsewhere)
    os.symlink(elsewhere, folder / "imagesTr")
    with pytest.raises(CaseError, match="found a link that leads out of it.*; copy the files, or list them"):
        open_dataset(folder).load(NAMES[0])
    # A list above both places reaches them.
    top = elsewhere.parent.parent
    (top / "all.csv").write_text(
        f"image,label\n{elsewhere.relative_to(top)}/case_000.nii.gz,{folder.relative_to(top)}/labelsTr/case_000.nii.gz\n"
    )
    assert open_dataset(top / "all.csv").load("case_000").image.size


# ---- kind 10: labels, and headers that say nothing


@pytest.mark.parametrize("kind", ["csv", "datalist"])
def test_masks_of_255_are_not_taken_for_255_classes(folder, kind):
    for n, case in FIVE.items():
        put(folder / f"labelsTr/{n}.nii.gz", np.where(case.label > 0, 255, 0).astype(np.uint8), case.affine)
    path = table(folder, [row(n, "train") for n in NAMES])
    if kind == "datalist":
        path = folder / "list.json"
        path.write_text(json.dumps({"training": [pair(n) for n in NAMES]}))
    with pytest.raises(DatasetError, match=r'found 255; .*\{"keep": \{"255": "tumor"\}\}'):
        open_dataset(path)
    if kind == "csv":
        table(folder, [row(n, "train") for n in NAMES], side={"keep": {"255": "tumor"}})
        data = open_dataset(path)
        assert (data.class_names, np.unique(data.load(NAMES[0]).label).tolist()) == (
            ("background", "tumor"),
            [0, 1],
        )


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_without_an_orientation_is_told_from_one_that_lies_elsewhere(folder, which):
    path = folder / pair(NAMES[0])[which]
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None)
    image.header["pixdim"][1:4] = (1, 1, 2)
    nib.save(image, path)
    with pytest.raises(CaseError, match=f"the {which} stores no orientation: .* give it the affine of the"):
        open_dataset(folder).load(NAMES[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scaled_labels_are_what_their_slope_says(tmp_path, layout):
    case = example()
    path = write(layout, tmp_path, {"a": case})
    label = next(tmp_path.rglob("labelsTr/a.nii.gz"))
    image = nib.Nifti1Image((case.label * 100).astype(np.int16), case.affine)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    raw[112:116] = np.float32(0.01).tobytes()  # scl_slope, which nibabel would choose itself
    label.write_bytes(gzip.compress(bytes(raw)))
    volume = open_dataset(path).load("a")
    np.testing.assert_array_equal(volume.label, case.label)
