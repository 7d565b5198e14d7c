"""Which cases a fold was trained on: one rule for the splits of the data and for the models of nnU-Net."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "bring"))
from test_nnunet_reading import read, write

from robustvox.benchmark.plan.folds import training_folds
from robustvox.datasets import DatasetError, open_dataset

IDS = [f"case_{i:03d}" for i in range(10)]
LABELS = {"background": 0, "a": 1, "b": 2}


def raw(folder, number=10, splits=None):
    folder.mkdir()
    meta = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": number, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(meta))
    if splits is not None:
        (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def of(folder, fold, cases, data):
    """What a model read from ``folder`` says of the data's cases."""
    model = read(folder, fold=fold, folds=training_folds(folder, cases, data))
    return model.held_out, model.trained_on


def fifths():
    return [
        {
            "train": [c for j, c in enumerate(IDS) if j % 5 != k],
            "val": [c for j, c in enumerate(IDS) if j % 5 == k],
        }
        for k in range(5)
    ]


def test_splits_final_says_what_a_fold_was_trained_on(tmp_path):
    splits = fifths()
    data, folder = raw(tmp_path / "data", splits=splits), write(tmp_path / "toy", folds=("0", "1"))
    assert of(folder, "1", IDS, data) == (("case_001", "case_006"), frozenset(splits[1]["train"]))
    model = read(folder, fold="1", folds=training_folds(folder, IDS, data))
    assert "trained on 8 of the data's cases, 2 held out, by splits_final.json of data" in model.notes[-1]
    assert of(folder, "0+1", IDS, data) == ((), frozenset(IDS))


def test_without_a_split_file_it_is_nnunets_five_folds_of_its_own_data(tmp_path):
    folder = write(tmp_path / "toy", folds=("0", "all"), number=10)
    data = raw(tmp_path / "data")
    assert of(folder, "0", IDS, data)[0] == ("case_000", "case_007")
    assert of(folder, "all", IDS, data)[1] == frozenset(IDS)
    # Other data: nobody knows, and the note says so.
    for other in (None, raw(tmp_path / "other", number=9)):
        assert training_folds(folder, IDS[:9], other) is None


def test_what_a_fold_was_validated_on_is_believed_first(tmp_path):
    folder = write(tmp_path / "toy", folds=("0",))
    (folder / "fold_0" / "validation").mkdir()
    for case in ("case_004", "case_005"):
        (folder / "fold_0" / "validation" / f"{case}.nii.gz").touch()
    held_out, trained_on = of(folder, "0", IDS, None)
    assert (held_out, len(trained_on)) == (("case_004", "case_005"), 8)


def test_every_case_on_the_fold_that_held_it_out(tmp_path):
    folder, data = write(tmp_path / "toy", folds=("0", "1"), number=10), raw(tmp_path / "data")
    assert of(folder, "cv", IDS, data) == (("case_000", "case_003", "case_007", "case_009"), frozenset())
    (data / "splits_final.json").write_text("[{}]")
    with pytest.raises(DatasetError, match=r"in .*data/splits_final\.json"):
        training_folds(folder, IDS, data)


@pytest.mark.parametrize("declared", [True, False])
def test_the_folds_of_the_data_are_those_of_its_models(tmp_path, layout_folder, declared):
    """``--split fold_k`` and a model of fold k mean the same cases, with a split file and without one."""
    data = layout_folder(IDS)
    if declared:
        (data / "splits_final.json").write_text(json.dumps(fifths()))
    folder = write(tmp_path / "toy", folds=tuple("01234"), number=len(IDS), labels=LABELS)
    opened = open_dataset(data)
    for k in range(5):
        held_out, trained_on = of(folder, str(k), opened.splits["all"], data)
        assert held_out == tuple(sorted(opened.splits[f"fold_{k}"]))
        assert trained_on == frozenset(IDS) - frozenset(held_out)


@pytest.fixture
def layout_folder(tmp_path):
    """A folder in nnU-Net's raw layout, of which only the names are looked at."""

    def make(ids):
        data = raw(tmp_path / "data", len(ids))
        for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (data / part).mkdir()
            for case in ids:
                (data / part / f"{case}{ending}").touch()
        return data

    return make
