"""Which records a folder holds: those of a dataset, and all below a results folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustvox.attacks import GN
from robustvox.benchmark import evaluate, load_records


@pytest.mark.parametrize("model", ["m", "records"])
def test_a_folder_above_records_means_all_below_it(tmp_path, model):
    label = np.zeros((6, 5, 4), int)
    label[2:4, 1:4, 1:3] = 1
    for number, dataset in enumerate(("one", "two")):
        evaluate(
            {model: torch.nn.Conv3d(1, 2, 1)}, {"gn": GN()}, {f"c{number}": (label * 0.5, label)},
            num_classes=2, roi_size=(6, 5, 4), spacing_mm=(1, 1, 1), store=tmp_path / dataset / "records",
        )  # fmt: skip
    (tmp_path / "one" / "checks").mkdir()
    (tmp_path / "one" / "checks" / "robustvox-1.jsonl").write_text('{"kind": "check"}\n')
    alone = load_records(tmp_path / "one" / "records")
    assert set(alone.scores["case"]) == {"c0"}
    assert load_records(tmp_path / "one").scores.equals(alone.scores)
    assert set(load_records(tmp_path).scores["case"]) == {"c0", "c1"}
    assert load_records(tmp_path / "nowhere").scores.empty
