"""Who a case is of: frames of one patient, splits that share a patient, and what a run records."""

from __future__ import annotations

from itertools import product

import nibabel as nib
import numpy as np
import pytest

from robustvox.datasets import CaseError, DatasetError, open_dataset, patient_of
from robustvox.datasets.folder import CaseFolder
from robustvox.datasets.published import PUBLISHED


def test_frames_of_acdc_are_of_their_patient(data_root):
    dataset = open_dataset("acdc", data_root)
    assert (
        patient_of(dataset, "patient089_frame01") == patient_of(dataset, "patient089_frame10") == "patient089"
    )
    counts = {name: len(ids) for name, ids in dataset.splits.items() if name != "all"}
    assert counts == {"train": 140, "validation": 20, "test": 40}
    whose = {name: {patient_of(dataset, case) for case in ids} for name, ids in dataset.splits.items()}
    assert [len(whose[name]) for name in counts] == [70, 10, 20]
    assert not whose["train"] & whose["validation"]
    assert not (whose["train"] | whose["validation"]) & whose["test"]


def test_acdc_needs_no_files_to_say_who_is_who():
    published = PUBLISHED["acdc"]()
    patients = {name: {case.split("_")[0] for case in ids} for name, ids in published.splits.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 100


def test_a_patient_in_two_splits_is_refused(msd_folder):
    dataset = open_dataset(msd_folder(4))
    cases = dataset.splits
    train, held_out = cases["train"][0], cases["validation"][0]
    names = ("root", "name", "class_names", "files", "splits", "preparation", "channels")
    known = {name: getattr(dataset, name) for name in names}
    shared = CaseFolder(**known, patients={train: "p", held_out: "p"})
    for case in (train, held_out):
        with pytest.raises(
            CaseError, match="expected a patient p of one split, found that patient in train and validation"
        ):
            shared.load(case)
    assert shared.load(cases["train"][1]).id == cases["train"][1]
    assert patient_of(shared, train) == "p"
    assert patient_of(dataset, train) == train


def test_the_light_preparation_is_a_dataset_of_its_own(data_root):
    light, whole = (open_dataset(name, data_root) for name in ("acdc_light", "acdc"))
    assert (light.name, whole.name) == ("acdc_light", "acdc")
    assert {name: tuple(ids) for name, ids in light.splits.items()} == {
        name: tuple(ids) for name, ids in whole.splits.items()
    }
    volume = light.load("patient096_frame01")  # 18 slices: the one that does not fit
    assert volume.image.shape == (1, *light.roi_size) == (1, 64, 64, 32)
    assert volume.spacing_mm == (2.5, 2.5, 5.0)
    assert set(volume.label.ravel()) == {0, 1, 2, 3}
    with pytest.raises(DatasetError, match="as_published"):
        open_dataset("acdc_light", data_root, as_published=True)


def test_a_copy_that_lost_its_spacing_says_so(data_root):
    assert "nominal" in open_dataset("acdc_light", data_root).provenance["note"]


@pytest.mark.parametrize("sides", [(1.5625,), (1.5625, 1.4)])
def test_true_spacings_are_not_called_nominal(tmp_path, sides):
    folder = tmp_path / "ACDC" / "training"
    for number in range(1, 14):
        side = sides[number % len(sides)]
        path = folder / f"patient{number:03d}" / f"{FRAMES[number - 1]}.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([side, side, 10.0, 1.0])), path)
    dataset = open_dataset("acdc", tmp_path)
    assert ("note" in dataset.provenance) == (len(sides) == 1)


FRAMES = [
    next(
        case
        for ids in PUBLISHED["acdc"]().splits.values()
        for case in ids
        if case.startswith(f"patient{n:03d}")
    )
    for n in range(1, 14)
]


@pytest.mark.parametrize("declared", [False, True])
def test_a_list_says_who_its_cases_are_of(tmp_path, declared):
    rng = np.random.default_rng(0)
    lines = ["image,label,id,patient" + (",split" if declared else "")]
    for patient, frame in product(range(6), "ab"):
        name = f"p{patient}{frame}"
        image = rng.random((6, 6, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image((image > 0.5).astype(np.uint8), np.eye(4)), tmp_path / f"{name}_gt.nii.gz")
        split = "," + ("validation" if (patient, frame) == (0, "a") else "train") if declared else ""
        lines.append(f"{name}.nii.gz,{name}_gt.nii.gz,{name},p{patient}{split}")
    (tmp_path / "frames.csv").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(tmp_path / "frames.csv")
    assert patient_of(dataset, "p3a") == patient_of(dataset, "p3b") == "p3"
    whose = {name: {patient_of(dataset, case) for case in ids} for name, ids in dataset.splits.items()}
    if declared:  # the list cuts patient p0 in two, which its cases say when they are used
        for case in ("p0a", "p0b"):
            with pytest.raises(CaseError, match="patient p0 of one split"):
                dataset.load(case)
        assert dataset.load("p1a").id == "p1a"
    else:
        assert not whose["train"] & whose["validation"]
        assert len(dataset.splits["validation"]) == 2 * len(whose["validation"]) == 2
