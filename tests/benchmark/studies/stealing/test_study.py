"""The whole experiment on phantoms, and that it goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.studies.stealing import setting as setting_module
from robustvox.benchmark.studies.stealing import study as module
from robustvox.benchmark.studies.stealing.cast import trained_on
from robustvox.benchmark.studies.stealing.setting import Setting, Study
from robustvox.benchmark.studies.stealing.study import Experiment
from robustvox.benchmark.studies.stealing.tables import tables
from robustvox.benchmark.studies.stealing.thefts import BEHIND, NOISE, PLAIN, RAW, TRUTH
from robustvox.benchmark.studies.stealing.thief import Steal
from robustvox.datasets.scanner import ScannerShift
from robustvox.models import load_checkpoint, read_card

SMALL = "unet:channels=(8,16,16),num_res_units=0,size=small"


@pytest.fixture
def tiny():
    return Study(
        model=SMALL, shift=ScannerShift(edge=4.0), seeds=(0,), victim_cases=8, victim_steps=3, pool=10, reference=2,
        test=3, curve=(4,), attack_steps=1, eps=(8 / 255,), others=(), steal=Steal(budget=8, steps=4, architecture=SMALL),
    )  # fmt: skip


def experiment(study, blobs, folder, told=None):
    on_work = None if told is None else lambda *work: told.append(work)
    return Experiment(Setting(study, blobs, folder), zoo=folder, on_work=on_work)


def test_everything_is_measured_and_nothing_twice(tiny, blobs, tmp_path, monkeypatch):
    told = []
    experiment(tiny, blobs, tmp_path, told).run()
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert {total for *_, total in told} == {len(told)}
    made = tables(tmp_path)
    function = made["function"].set_index("row")
    for row in (
        PLAIN,
        RAW,
        BEHIND,
        TRUTH,
        "victim on A",
        "victim on raw B",
        "answers: probabilities",
        "4 queries",
    ):
        assert function.loc[row]["n_cases"] == 3
        assert function.loc[row]["n_seeds"] == 1
    assert function.loc["victim on A"]["agreement"] == 1
    assert function.loc[f"victim on A, logit noise {NOISE:g}"]["agreement"] < 1
    assert function.loc[PLAIN]["queries"] == 8
    assert function.loc["4 queries"]["queries"] == 4
    assert function.loc[TRUTH]["queries"] == 0
    surrogates = set(made["transfer"]["surrogate"])
    assert {"white box", PLAIN, BEHIND, TRUTH, "sign noise", "smoothed sign noise"} <= surrogates
    assert (made["transfer"]["n_cases"] == 3).all()
    calibration = pd.read_csv(tmp_path / "calibration.csv")
    assert set(calibration["estimator"]) == {"population", "phantom"}
    truth = np.log(tiny.shift.transfer(calibration["frequency"].to_numpy()))
    np.testing.assert_allclose(calibration["log_h_true"], truth)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "foreground_dice", never)
    monkeypatch.setattr(setting_module, "train", never)
    monkeypatch.setattr(Setting, "copy", never)
    experiment(tiny, blobs, tmp_path).run()
    assert before == {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}


def test_a_copy_is_an_ordinary_checkpoint_that_says_where_it_comes_from(tiny, blobs, tmp_path):
    made = Setting(tiny, blobs, tmp_path)
    theft = module.thefts(replace(tiny.steal, roi_size=blobs.roi_size), ())[0]
    made.copy(0, theft)
    (path,) = (tmp_path / "copies").glob("*.safetensors")
    card = load_checkpoint(path).card
    assert card.data["victim_sha256"] == made.victim.sha256
    assert card.data["queries"] == 8
    assert card.data["shift"] == "edge:4"
    assert "to_a_gain" in card.data["calibration"]
    cast = made.cast(0)
    assert set(card.data["patients"].split()) == set(cast.pool)
    assert set(trained_on(read_card(tmp_path / "victim.safetensors"), blobs)) == set(cast.victim)
    assert not set(cast.victim) & {*cast.pool, *cast.reference, *cast.test}


def test_a_given_victim_keeps_its_patients_to_itself(tiny, blobs, tmp_path):
    first = Setting(tiny, blobs, tmp_path)
    trained = first.cast(0).victim
    assert first.victim.card.num_classes == 3
    given = Setting(
        replace(tiny, checkpoint=tmp_path / "victim.safetensors", seeds=(5,)), blobs, tmp_path / "other"
    )
    assert set(given.cast(5).victim) == set(trained)
    assert given.victim.sha256 == first.victim.sha256


def test_a_victim_of_another_recipe_in_the_folder_is_refused(tiny, blobs, tmp_path):
    Setting(tiny, blobs, tmp_path).victim  # noqa: B018
    for other in (replace(tiny, victim_steps=4), replace(tiny, victim_cases=9)):
        with pytest.raises(ValueError, match="remove the file or give it as --checkpoint"):
            Setting(other, blobs, tmp_path).victim  # noqa: B018
