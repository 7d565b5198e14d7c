"""The study of marks: removers are what they say, and the tables say what was measured."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from robustvox.benchmark.cli import main
from robustvox.benchmark.metrics.statistics import bootstrap_intervals
from robustvox.benchmark.studies.marking import tables
from robustvox.benchmark.studies.marking.removers import (
    REMOVERS,
    dct_quantize,
    gaussian,
    requantize,
    resample,
    wiener,
)
from robustvox.benchmark.studies.marking.study import OTHER_FIELD, OWN_FIELD
from robustvox.benchmark.studies.marking.tables import read_cases, summarize
from robustvox.benchmark.studies.marking.trained import RemoverRecipe, train_remover


def image(shape=(1, 9, 11, 10), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


# --- removers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REMOVERS)
@settings(max_examples=6, deadline=None)
@given(
    sides=st.lists(st.sampled_from([1, 2, 7, 8, 9, 16]), min_size=3, max_size=3),
    channels=st.integers(1, 2),
    value=st.sampled_from([None, 0.0, 0.4, 1.0]),
)
def test_removers_keep_shape_range_and_inputs(name, sides, channels, value):
    before = image((channels, *sides)) if value is None else np.full((channels, *sides), value, np.float32)
    kept = before.copy()
    after = REMOVERS[name](before, 0)
    assert (after.shape, after.dtype) == (before.shape, np.float32)
    assert np.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1
    np.testing.assert_array_equal(before, kept)
    np.testing.assert_array_equal(after, REMOVERS[name](before, 0))
    if value is not None and "noise" not in name:
        # A constant has nothing to take off but what rounding does.
        assert np.abs(after - value).max() <= (0.5 / 15 if "bits" in name else 20 / 255)


def test_channels_do_not_mix():
    both = np.concatenate([image(seed=0), image(seed=1)])
    for name, remover in REMOVERS.items():
        if "noise" not in name:
            apart = np.concatenate([remover(both[:1], 0), remover(both[1:], 0)])
            np.testing.assert_allclose(remover(both, 0), apart, atol=1e-7, err_msg=name)


def test_dct_quantization_equals_a_loop_over_blocks():
    before, q = image((1, 16, 8, 24)), 15.0
    expected = before.astype(np.float64).copy()
    order = sum(np.ogrid[:8, :8, :8])
    step = q * (1 + order / 3) / 255
    for corner in itertools.product(range(0, 16, 8), range(0, 8, 8), range(0, 24, 8)):
        box = (0, *(slice(c, c + 8) for c in corner))
        expected[box] = fft.idctn(np.rint(fft.dctn(expected[box], norm="ortho") / step) * step, norm="ortho")
    np.testing.assert_allclose(dct_quantize(before, q=q), expected.clip(0, 1), atol=1e-6)


def test_small_closed_forms():
    assert sorted(set(requantize(image(), bits=1).ravel().tolist())) == [0.0, 1.0]
    ramp = np.broadcast_to(np.linspace(0.2, 0.8, 12, dtype=np.float32), (1, 6, 6, 12))
    # A ramp survives linear resampling but for its ends.
    np.testing.assert_allclose(resample(ramp, factor=0.75)[..., 1:-1], ramp[..., 1:-1], atol=1e-3)
    assert gaussian(image(), sigma=1.0).std() < 0.5 * image().std()
    # Without noise there is nothing to filter.
    np.testing.assert_allclose(wiener(image(), side=3, std=0.0), image(), atol=1e-6)


def test_a_trained_remover_learns_a_mark_that_can_be_learned():
    """The same checkered field on all volumes: the easiest mark there is."""
    checkers = (np.indices((12, 12, 12)).sum(0) % 2 * 2 - 1)[None] * np.float32(0.06)
    smooth = [gaussian(image((1, 12, 12, 12), seed), sigma=2.0) for seed in range(4)]
    marked = [(one + checkers).astype(np.float32) for one in smooth]
    recipe = RemoverRecipe(steps=250, batch=2, side=8, learning_rate=5e-3, channels=(8, 16), bound=0.08)
    remover = train_remover(marked[:3], smooth[:3], recipe)
    left = np.abs(remover.remove(marked[3]) - smooth[3]).mean()
    assert left < 0.5 * 0.06
    assert remover.remove(image((1, 5, 7, 9))).shape == (1, 5, 7, 9)
    again = train_remover(marked[:3], smooth[:3], recipe)
    np.testing.assert_array_equal(again.remove(marked[3]), remover.remove(marked[3]))
    with pytest.raises(ValueError, match="expected at least one marked volume"):
        train_remover([], [], recipe)


# --- the study ----------------------------------------------------------------------------------


def run(toy, *more: str, models=("unet", "segresnet")) -> int:
    arguments = toy.arguments(models=models)
    arguments[arguments.index("--split") + 1] = "validation"
    arguments[arguments.index("--cases") + 1] = "1"
    return main(["marking", *arguments, "--pairs", "1", "--remover-steps", "2", *more])


@pytest.mark.slow
def test_the_study_measures_all_of_it_once(toy, capsys):
    assert run(toy, "--seeds", "2") == 0
    printed = capsys.readouterr().out
    folder = toy.root / "results" / "toy" / "marking"
    cases = read_cases(folder / "cases.csv.gz")
    assert set(cases["mark"]) == {"field", "field fused", "field outside", "logo"}
    assert {*REMOVERS, "marked", "authorised", OWN_FIELD, OTHER_FIELD, "trained on unet"} == set(
        cases["view"]
    )
    # With the key everything is as it was, to the last digit.
    unlocked = cases[cases["view"] == "authorised"]
    assert (unlocked["dice"] == unlocked["dice_clean"]).all()
    assert (unlocked["linf"] == 0).all()
    marked = cases[cases["view"] == "marked"]
    fields = marked[marked["mark"] != "logo"]
    assert (fields["linf"] <= 16 / 255).all()
    assert (marked[marked["mark"] == "field outside"]["label_changed"] == 0).all()
    assert (marked["seal_bytes"] > 500).all()
    assert set(marked["target"]) == {"unet", "segresnet"}
    assert "trained on unet" in printed
    assert "| unlocked with the key |" in (folder / "marking.md").read_text()
    # Again: nothing is measured anew. One key more: only that.
    before = (folder / "cases.csv.gz").read_bytes()
    assert run(toy, "--seeds", "2") == 0
    assert (folder / "cases.csv.gz").read_bytes() == before
    assert run(toy, "--seeds", "3", "--mark", "field", "--no-thorough") == 0
    more = read_cases(folder / "cases.csv.gz")
    assert len(more) > len(cases)
    pd.testing.assert_frame_equal(more.head(len(cases)), cases)


@pytest.mark.usefixtures("few_patients")
def test_means_intervals_and_net_protection_are_what_they_say():
    rng = np.random.default_rng(0)
    rows = [
        {"study": "a", "dataset": "d", "case": f"c{case}", "seed": seed, "mark": "field", "made_on": "unet",
         "view": "gaussian 1", "target": "unet", "dice_clean": 0.8 + case / 100, "dice": rng.random(), "linf": 0.1,
         "psnr": 20.0, "ssim": 0.9, "label_changed": 1.0, "seal_bytes": 100, "seconds": 1.0}
        for case in range(4) for seed in range(3)
    ]  # fmt: skip
    table = summarize(pd.DataFrame(rows))
    dice = np.array([row["dice"] for row in rows]).reshape(4, 3)
    row = table.iloc[0]
    assert len(table) == 1
    assert row["dice"] == pytest.approx(dice.mean())
    assert row["net"] == pytest.approx(0.815 - dice.mean())
    assert (row["seed_low"], row["seed_high"]) == pytest.approx((dice.mean(0).min(), dice.mean(0).max()))
    low, high = bootstrap_intervals(dice.mean(1)[None])
    assert (row["dice_low"], row["dice_high"]) == (low[0], high[0])


@pytest.mark.slow
def test_mistakes_of_the_study_are_one_line(toy, capsys):
    def error(*more) -> str:
        assert run(toy, *more) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "unknown --mark" in error("--mark", "stamp")
    assert "seeds" in error("--seeds", "0")
    arguments = toy.arguments()
    assert main(["marking", *arguments, "--pairs", "9"]) == 2
    assert "expected cases the removers were not trained on" in capsys.readouterr().err


def test_a_mark_with_fewer_cases_says_so_and_leaves_the_clean_row_alone():
    """Two cases of one mark, one of another: the clean row is that of the cases in the heading."""
    row = {
        **dict.fromkeys(tables.COLUMNS, 0.0),
        **{"dataset": "toy", "study": "s", "made_on": "unet", "target": "unet", "seed": 0, "view": "marked"},
    }
    cases = pd.DataFrame(
        [
            {**row, "mark": "field", "case": "a", "dice_clean": 0.9, "dice": 0.5},
            {**row, "mark": "field", "case": "b", "dice_clean": 0.7, "dice": 0.5},
            {**row, "mark": "logo", "case": "b", "dice_clean": 0.7, "dice": 0.6},
        ]
    )
    text = tables.markdown(tables.summarize(cases))
    assert "toy, 2 cases" in text
    assert "| clean | 0.800 |" in text
    assert "| logo on unet, 1 case | 0.600 of 0.700 (0.600 to 0.600) |" in text
