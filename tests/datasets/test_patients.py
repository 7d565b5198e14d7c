"""Who a case is of: frames of one patient, splits that share a patient, and what a run records."""

from __future__ import annotations

import pytest

from robustvox.datasets import CaseError, open_dataset, patient_of
from robustvox.datasets.folder import CaseFolder
from robustvox.datasets.published import PUBLISHED


def test_frames_of_acdc_are_of_their_patient(data_root):
    dataset = open_dataset("acdc", data_root)
    assert patient_of(dataset, "patient089_frame01") == patient_of(dataset, "patient089_frame10") == "patient089"
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
        with pytest.raises(CaseError, match="expected a patient p of one split, found that patient in train and validation"):
            shared.load(case)
    assert shared.load(cases["train"][1]).id == cases["train"][1]
    assert patient_of(shared, train) == "p"
    assert patient_of(dataset, train) == train
