"""No patient plays two parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.benchmark.studies.stealing.cast import CASES, Cast, Part, cast_roles, trained_on
from robustvox.models import ModelCard

from .conftest import Blobs


def card(**data):
    return ModelCard(
        architecture="unet", arguments={}, in_channels=1, class_names=("a", "b"), roi_size=(8, 8, 8),
        dataset="blobs", window="none", data=data,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    pool=st.integers(1, 15), reference=st.integers(1, 5), test=st.integers(1, 6), victim=st.integers(1, 12),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_roles_are_disjoint_sized_as_asked_and_the_test_patients_stay(pool, reference, test, victim, seed):
    blobs = Blobs(count=44)
    cast = cast_roles(blobs, pool=pool, reference=reference, test=test, victim=victim, seed=seed)
    roles = [set(getattr(cast, name)) for name in ("victim", "pool", "reference", "test")]
    assert [len(role) for role in roles] == [victim, pool, reference, test]
    assert len(set().union(*roles)) == victim + pool + reference + test
    assert roles[0] <= set(blobs.splits["train"])
    assert roles[3] <= set(blobs.splits["validation"])
    other = cast_roles(blobs, pool=pool, reference=reference, test=test, victim=victim, seed=seed + 1)
    assert other.test == cast.test
    assert other.victim == cast.victim
    assert not {*other.pool, *other.reference} & {*cast.victim, *cast.test}


def test_a_case_in_two_roles_is_refused():
    roles = {"victim": ("a",), "pool": ("b",), "reference": ("c",), "test": ("d",)}
    Cast(**roles)
    for role in ("pool", "reference", "test"):
        with pytest.raises(ValueError, match=f"found a as victim and {role}"):
            Cast(**{**roles, role: ("a", "x")})
    with pytest.raises(ValueError, match="expected cases for the role test"):
        Cast(**{**roles, "test": ()})


def test_too_few_patients_are_refused(blobs):
    with pytest.raises(ValueError, match="give a smaller --pool"):
        cast_roles(blobs, pool=30, reference=2, test=3, victim=10)
    with pytest.raises(ValueError, match="found"):
        cast_roles(blobs, pool=2, reference=2, test=3, victim=31)


def test_who_trained_a_victim_is_on_its_card(blobs):
    part = Part(blobs, ("case_11", "case_12"), ("case_01",), (8, 8, 8))
    assert part.splits["train"] == ("case_11", "case_12")
    assert part.roi_size == (8, 8, 8)
    assert trained_on(card(**part.provenance), blobs) == ("case_11", "case_12")
    assert trained_on(card(**blobs.provenance), blobs) == blobs.splits["train"]
    for unknown in (card(split="another"), replace(card(**blobs.provenance), dataset="other")):
        with pytest.raises(ValueError, match="names its training cases"):
            trained_on(unknown, blobs)
    assert CASES in part.provenance


def test_a_victim_given_by_its_cases_leaves_the_thief_the_same_patients():
    blobs = Blobs(count=44)
    drawn = cast_roles(blobs, pool=8, reference=2, test=3, victim=9, seed=4)
    assert cast_roles(blobs, pool=8, reference=2, test=3, victim=drawn.victim, seed=4) == drawn
