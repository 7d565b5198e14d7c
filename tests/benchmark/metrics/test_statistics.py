"""Intervals, the paired test and success rates against scipy, enumeration and counting by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, permutation_test, t, wilcoxon

from robustvox.benchmark.metrics.statistics import bootstrap_intervals, compare, holm
from robustvox.benchmark.metrics.success import voxel_success
from robustvox.benchmark.records.reading import Records
from robustvox.benchmark.show.tables.success import lost_organs

VALUES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8)


@settings(max_examples=15, deadline=None)
@given(VALUES)
def test_swapping_the_models_mirrors_the_comparison(pairs: list) -> None:
    a, b = np.array(pairs).T
    there, back = compare(a, b, resamples=500), compare(b, a, resamples=500)
    assert there == compare(a, b, resamples=500)
    np.testing.assert_allclose(
        (there.difference, there.low, there.high), (-back.difference, -back.high, -back.low), atol=1e-12
    )
    assert there.p_value == pytest.approx(back.p_value, abs=1e-9)
    assert there.low - 1e-12 <= there.difference <= there.high + 1e-12


def test_exact_p_value_by_enumeration() -> None:
    differences = np.array([0.3, -0.1, 0.2, 0.05, 0.4])
    flips = [(differences * s).mean() for s in itertools.product((1, -1), repeat=5)]
    expected = np.mean(np.abs(flips) >= differences.mean() - 1e-12)
    assert compare(differences, np.zeros(5)).p_value == pytest.approx(expected)


def test_random_sign_flips_agree_with_scipy() -> None:
    differences = np.random.default_rng(3).normal(0.1, 0.3, 30)
    expected = wilcoxon(differences, method="exact").pvalue
    ours = compare(differences, np.zeros(30)).p_value
    theirs = permutation_test(
        (differences,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=9_999
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours == pytest.approx(expected, abs=0.05)


def test_interval_depends_on_the_seed_only() -> None:
    table = np.random.default_rng(0).random((3, 12))
    first, again, other = (np.stack(bootstrap_intervals(table, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    alone = np.stack(bootstrap_intervals(table[1:2], seed=1))
    np.testing.assert_array_equal(first[:, 1:2], alone)


@pytest.mark.parametrize("size", [12, 40])
def test_interval_is_as_wide_as_students_where_that_is_exact(size: int) -> None:
    scores = np.random.default_rng(1).normal(0.7, 0.05, (300, size))
    low, high = bootstrap_intervals(scores)
    half = t.ppf(0.975, size - 1) * scores.std(axis=1, ddof=1) / np.sqrt(size)
    assert np.mean((high - low) / (2 * half)) == pytest.approx(1.0, abs=0.03)
    assert np.mean((low <= 0.7) & (high >= 0.7)) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_interval_stays_within_the_cases(size: int) -> None:
    scores = np.random.default_rng(2).beta(18, 2, (20, size))
    low, high = bootstrap_intervals(scores)
    assert (low >= scores.min(axis=1) - 1e-12).all()
    assert (high <= scores.max(axis=1) + 1e-12).all()
    if size <= 2:
        np.testing.assert_allclose((low, high), (scores.min(axis=1), scores.max(axis=1)))


def test_pairs_with_nan_are_left_out_and_bad_pairs_refused() -> None:
    assert compare([0.5, np.nan, 0.7], [0.4, 0.1, 0.6]).n_cases == 2
    with pytest.raises(ValueError, match="pair the values by case id"):
        compare([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="at least one case"):
        compare([np.nan], [0.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(values: list) -> None:
    adjusted, raw = holm(values), np.array(values)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw.max() * len(raw))).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1.0, raw.min() * len(raw)))
    # Uniformly at least as strict as Benjamini-Hochberg.
    assert (adjusted >= false_discovery_control(raw) - 1e-12).all()


def test_voxel_success_without_a_right_voxel_is_not_a_number() -> None:
    zeros, ones = np.zeros((2, 2), int), np.ones((2, 2), int)
    assert np.isnan(voxel_success(zeros, zeros, ones)).all()
    assert voxel_success(zeros, ones, ones) == (1.0, 1.0)


def test_lost_organs_by_hand() -> None:
    rows = [  # case, attack, class, dice, status
        ("a", "none", 1, 0.8, "ok"), ("a", "pgd", 1, 0.39, "ok"),
        ("b", "none", 1, 0.8, "ok"), ("b", "pgd", 1, 0.4, "ok"),
        ("c", "none", 1, 0.0, "missing"), ("c", "pgd", 1, 0.0, "missing"),
        ("d", "none", 1, np.nan, "absent"), ("d", "pgd", 1, 0.0, "hallucinated"),
        ("a", "none", 2, 0.9, "ok"), ("a", "pgd", 2, 0.0, "missing"),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["case", "attack", "class_id", "dice", "status"])
    scores["unit"] = scores["case"] + scores["attack"]
    scores["class_name"] = scores["class_id"].map({1: "liver", 2: "spleen"})
    scores[["dataset", "protocol", "surrogate", "target"]] = "phantom", "robustvox-1", "unet", "unet"
    costs = scores[["unit"]].drop_duplicates().assign(surrogate_sha256="s", target_sha256="s")
    table = lost_organs(Records(scores, costs, pd.DataFrame()))
    assert table[["class_name", "n_organs", "lost", "success"]].values.tolist() == [
        ["liver", 2, 1, 0.5],
        ["spleen", 1, 1, 1.0],
    ]
