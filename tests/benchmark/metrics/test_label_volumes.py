"""Passes over flat pieces give what the definitions give, at every border and for every type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robustvox.benchmark.metrics import label_volumes
from robustvox.benchmark.metrics.directed import between, ranks
from robustvox.benchmark.metrics.label_volumes import check_labels, surface_mask

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


def by_definition(labels: np.ndarray) -> np.ndarray:
    """A face neighbour of another class, or none at all."""
    padded = np.pad(labels.astype(int), 1, constant_values=-1)
    core = tuple(slice(1, -1) for _ in labels.shape)
    surface = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        for step in (1, -1):
            surface |= np.roll(padded, step, axis)[core] != labels
    return surface


@settings(max_examples=60, deadline=None)
@given(
    labels=SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))),
    piece=st.sampled_from([1, 7, 64]),
)
def test_the_surface_is_the_definition_s(labels: np.ndarray, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_volumes, "_PIECE", piece)
        assert np.array_equal(surface_mask(labels), by_definition(labels))
        inside = np.flatnonzero(labels)
        if len(inside):
            part = surface_mask(labels, int(inside[0]), int(inside[-1]) + 1).reshape(-1)[inside]
            assert np.array_equal(part, by_definition(labels).reshape(-1)[inside])


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int32, np.int64, np.uint64, ">i4"])
def test_labels_of_every_type_come_out_narrow(dtype) -> None:
    labels = np.array([[0, 1], [1, 0]], dtype)
    found = check_labels(labels[::-1], "labels", 2)
    assert found.dtype == np.uint8
    assert np.array_equal(found, [[1, 0], [0, 1]])


@pytest.mark.parametrize("wrong", [-1, 3, 2**31 - 1])
@pytest.mark.parametrize("at", [0, 63, 199])
def test_one_wrong_voxel_in_any_piece_is_named(wrong: int, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_volumes, "_PIECE", 64)
    labels = np.zeros(200, np.int64)
    labels[at] = wrong
    low, high = min(wrong, 0), max(wrong, 0)
    with pytest.raises(ValueError, match=rf"labels: expected class ids in 0..2, got {low}..{high}"):
        check_labels(labels, "labels", 3)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e3)))
def test_the_percentile_is_numpy_s_to_the_bit(values: np.ndarray) -> None:
    ordered, rank = np.sort(values), int(ranks(np.array(len(values))))
    share = 0.95 * (len(values) - 1) - rank
    following = ordered[min(rank + 1, len(values) - 1)]
    assert between(ordered[rank], following, share) == np.percentile(values, 95.0)
