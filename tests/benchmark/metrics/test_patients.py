"""Two cases of one patient are not two patients: intervals and tests against brute force and against means by hand."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.benchmark.metrics.statistics import (
    bootstrap_intervals,
    by_patient,
    compare,
    expanded_tail,
    sign_flip,
)
from robustvox.benchmark.records.patients import note_patients, read_patients
from robustvox.benchmark.studies.frequency.tables import COLUMNS, GROUP, summarize

WHOSE = ["a", "a", "b", "c", "c", "c"]
SCORES = np.array([[0.9, 0.8, 0.3, 0.6, 0.5, 0.7], [0.1, 0.5, 0.2, 0.9, 0.4, 0.3]])


def test_a_patient_each_changes_no_bit() -> None:
    plain = np.stack(bootstrap_intervals(SCORES))
    named = np.stack(bootstrap_intervals(SCORES, patients=list("abcdef")))
    np.testing.assert_array_equal(plain, named)
    assert compare(*SCORES) == compare(*SCORES, patients=list("abcdef"))


def test_patients_are_drawn_with_all_their_cases() -> None:
    """Every resample of three patients, listed, and its quantiles weighted alike."""
    own = [[0, 1], [2], [3, 4, 5]]
    means = []
    for drawn in itertools.product(range(3), repeat=3):
        columns = [c for patient in drawn for c in own[patient]]
        means.append(SCORES[0, columns].mean())
    tail = expanded_tail(3)
    expected = np.quantile(means, [tail, 1 - tail])
    low, high = bootstrap_intervals(SCORES, patients=WHOSE, resamples=200_000)
    # With three patients the tail is so thin that both ends are those of the 27 resamples.
    np.testing.assert_allclose((low[0], high[0]), expected, atol=5e-3)


def test_equal_patients_are_the_bootstrap_of_their_means() -> None:
    """Where every patient has as many cases, resampling patients is resampling their means."""
    frames = np.random.default_rng(0).random((4, 20))
    whose = [f"p{i // 2}" for i in range(20)]
    means = frames.reshape(4, 10, 2).mean(2)
    np.testing.assert_allclose(
        np.stack(bootstrap_intervals(frames, patients=whose)),
        np.stack(bootstrap_intervals(means)),
        atol=1e-12,
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_cases_within_patients_does_not_matter(order: list[int]) -> None:
    names = list(dict.fromkeys(WHOSE))
    # Patients keep their order, their cases do not.
    mixed = sorted(order, key=lambda i: names.index(WHOSE[i]))
    there = np.stack(bootstrap_intervals(SCORES, patients=WHOSE, resamples=300))
    again = np.stack(bootstrap_intervals(SCORES[:, mixed], patients=[WHOSE[i] for i in mixed], resamples=300))
    np.testing.assert_allclose(there, again, atol=1e-12)


def test_signs_flip_by_patient() -> None:
    differences = SCORES[0] - SCORES[1]
    own = [[0, 1], [2], [3, 4, 5]]
    flips = []
    for signs in itertools.product((1, -1), repeat=3):
        flipped = differences.copy()
        for sign, columns in zip(signs, own, strict=True):
            flipped[columns] *= sign
        flips.append(abs(flipped.mean()))
    expected = np.mean(np.array(flips) >= abs(differences.mean()) - 1e-12)
    assert sign_flip(differences, patients=WHOSE) == pytest.approx(expected)
    assert compare(*SCORES, patients=WHOSE).p_value == pytest.approx(expected)


def test_two_equal_frames_are_no_more_evidence_than_one() -> None:
    once = np.array([0.1, 0.2, 0.05, 0.3, -0.1])
    twice = np.repeat(once, 2)
    whose = [f"p{i // 2}" for i in range(10)]
    assert sign_flip(twice, patients=whose) == sign_flip(once)
    assert sign_flip(twice) < sign_flip(once)  # what counting frames would claim
    np.testing.assert_allclose(
        np.stack(bootstrap_intervals(twice[None], patients=whose)), np.stack(bootstrap_intervals(once[None]))
    )


def test_a_pair_without_a_value_leaves_its_patient_the_others() -> None:
    first = SCORES[0].copy()
    first[0] = np.nan
    found = compare(first, SCORES[1], patients=WHOSE)
    assert found.n_cases == 5
    kept = compare(first[1:], SCORES[1, 1:], patients=WHOSE[1:])
    assert (found.low, found.high, found.p_value) == (kept.low, kept.high, kept.p_value)


def test_patients_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the patient of each of the 6 cases, got 2"):
        bootstrap_intervals(SCORES, patients=["a", "b"])


def test_sums_by_patient() -> None:
    sums, sizes = by_patient(SCORES, WHOSE)
    np.testing.assert_allclose(sums[0], [1.7, 0.3, 1.8])
    assert sizes is not None
    assert sizes.tolist() == [2, 1, 3]


def test_coverage_with_correlated_frames() -> None:
    """Patients resampled cover 95%, frames resampled do not; ``tests/performance/bootstrap_coverage.py`` says more."""
    rng, trials = np.random.default_rng(4), 300
    scores = np.repeat(rng.normal(0, 0.9, (trials, 12)), 2, axis=1) + rng.normal(0, 0.45, (trials, 24))
    whose = [f"p{i // 2}" for i in range(24)]
    covered = []
    for names in (whose, None):
        low, high = bootstrap_intervals(scores, patients=names, resamples=500)
        covered.append(np.mean((low <= 0) & (high >= 0)))
    assert 0.90 <= covered[0] <= 0.98
    assert covered[1] < 0.89


def test_studies_note_who_is_who_and_resample_patients(tmp_path, few_patients) -> None:
    """Rows of studies carry no patient; a list beside them does, and only where it says something."""

    class Frames:
        patients: ClassVar = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2", "p2_b": "p2"}

    note_patients(tmp_path, Frames(), ["p1_a", "p1_b"])  # type: ignore[arg-type]
    note_patients(tmp_path, Frames(), ["p2_a", "p2_b", "own"])  # type: ignore[arg-type]
    known = read_patients(tmp_path)
    assert known == Frames.patients
    note_patients(tmp_path / "plain", Frames(), ["own"])  # type: ignore[arg-type]
    assert not (tmp_path / "plain").exists()

    cases = ["p1_a", "p1_b", "p2_a", "p2_b", "own"]
    dice = [0.9, 0.8, 0.2, 0.3, 0.6]
    rows = [
        {
            **dict.fromkeys((*GROUP, "rescale", "kind", "band"), "x"),
            **{"low": 0.0, "high": 1.0, "seed": 0, "case": case, "dice": value},
            **dict.fromkeys((name for name in COLUMNS[-7:] if name != "dice"), 0.5),
        }
        for case, value in zip(cases, dice, strict=True)
    ]
    frame = pd.DataFrame(rows)
    low, high = bootstrap_intervals(np.array([dice]), patients=[known.get(case, case) for case in cases])
    table = summarize(frame, known)
    assert (table["dice_low"][0], table["dice_high"][0]) == (low[0], high[0])
    assert summarize(frame)["dice_low"][0] != low[0]
