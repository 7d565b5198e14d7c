"""nnU-Net's folds, which no other file may know."""

from __future__ import annotations

import numpy as np
import pytest

from robustvox.datasets import DatasetError
from robustvox.datasets.folds import Fold, five_folds, read_folds

IDS = [f"case_{i:03d}" for i in range(10)]


def test_five_folds_written_out():
    # KFold(5, shuffle=True, random_state=12345) of ten sorted ids, computed by scikit-learn once.
    held_out = [[int(case[-3:]) for case in fold.validation] for fold in five_folds(list(reversed(IDS)))]
    assert held_out == [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]
    for fold in five_folds(IDS):
        assert sorted((*fold.train, *fold.validation)) == IDS


def test_five_folds_are_those_of_scikit_learn():
    model_selection = pytest.importorskip("sklearn.model_selection", reason="the reference")
    for number in (5, 7, 10, 23, 101):
        ids = np.array([f"{i:03d}" for i in range(number)])
        split = model_selection.KFold(5, shuffle=True, random_state=12345).split(ids)
        expected = [Fold(tuple(ids[train]), tuple(ids[val])) for train, val in split]
        assert list(five_folds(list(ids))) == expected


def test_fewer_than_five_cases_have_no_folds():
    assert five_folds(IDS[:4]) == ()


@pytest.mark.parametrize(
    "content", ["[]", "[{}]", "3", '[{"train": ["a"]}]', "{", '[{"train": 1, "val": []}]']
)
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "splits_final.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"splits_final\.json.*, found .*; repair"):
        read_folds(path)
