"""Looking along columns against every distance measured; and that it settles what it is for."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from robustvox.benchmark.metrics import columns
from robustvox.benchmark.metrics.agreement import surface_agreement
from robustvox.benchmark.metrics.directed import Directed
from robustvox.benchmark.metrics.surfaces import LabelSurfaces, length_mm

SPACING = st.sampled_from([0.4, 0.7, 1.0, 1.3, 2.0, 5.0])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[np.ndarray], tuple[float, ...]]:
    """Two volumes of one class in any rank: solid, thin or single voxels, moved, anywhere up to the border."""
    rank = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 24)) for _ in range(rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.003, 0.3, 1.0]))
    extent = tuple(draw(st.integers(1, 12)) for _ in range(rank))
    volumes = []
    for _ in range(2):
        corner = tuple(draw(st.integers(0, size - 1)) for size in shape)
        volume = np.zeros(shape, np.uint8)
        part = volume[tuple(slice(start, start + size) for start, size in zip(corner, extent, strict=True))]
        part[...] = rng.random(part.shape) < share
        volume[tuple(draw(st.integers(0, size - 1)) for size in shape)] = 1
        volumes.append(volume)
    return volumes, tuple(draw(SPACING) for _ in range(rank))


TOUCHING_AND_FAR_APART = (
    [np.isin(np.arange(15), at).astype(np.uint8)[None, None] for at in ([1, 14], [0, 1])],
    (0.4, 0.4, 0.7),
)
"""Too far for the percentile; one voxel lies within a limit of 0, the other does not."""


@settings(max_examples=150, deadline=None)
@given(pairs(), st.sampled_from([0.0, 1.0, 4.0]))
@example(TOUCHING_AND_FAR_APART, 0.0)
def test_every_distance_found_is_the_least_and_none_is_missed(case: tuple, limit: float) -> None:
    volumes, spacing = case
    first, second = (LabelSurfaces(one, num_classes=2, spacing_mm=spacing) for one in volumes)
    pair = []
    for origin, target in ((first, second), (second, first)):
        unknown = np.full(origin.voxels.shape[1], np.inf)
        pair.append(Directed(target, 1, origin.voxels, unknown, 0.0, np.float32(limit)))
    with patch.multiple(columns, _FEW=0, _ROOM=10**6):
        columns.look_along_columns(pair)
    for side, origin in zip(pair, (first, second), strict=True):
        apart = origin.voxels[:, :, None] - side.target.voxels[:, None]
        every = length_mm(apart.reshape(len(spacing), -1), first.spacing_mm[:, None])
        exact = every.reshape(apart.shape[1:]).min(axis=1)
        known = np.isfinite(side.distance)
        np.testing.assert_array_equal(side.distance[known], exact[known])
        assert not (~known).any() or side.low <= exact[~known].min()
        assert not side.near or not known.any()  # what lies within the limit is found, if it is looked for


def organs(seed: int, shift: int, shape: tuple[int, int, int] = (60, 56, 44)) -> np.ndarray:
    """Two rough balls, one of them cut by the border, as a label volume."""
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), -1)
    rough = 15 * gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    labels = np.zeros(shape, np.uint8)
    for label, center in ((1, (16, 18, 18)), (2, (42, 50, 20))):
        labels[np.linalg.norm(grid - center - shift, axis=-1) + rough < 12] = label
    return labels


@pytest.mark.parametrize("tolerance", [1.0, 5.0, 10.0])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 2.0), (0.7, 0.8, 3.0), (3.0, 1.0, 1.0)])
def test_a_moderate_shift_needs_no_tree(spacing: tuple[float, ...], tolerance: float) -> None:
    first, second = (
        LabelSurfaces(organs(*case), num_classes=3, spacing_mm=spacing) for case in ((0, 0), (1, 3))
    )
    agreement = surface_agreement(first, second, [1, 2], tolerance)
    assert first._tree is None
    assert second._tree is None
    for index, label in enumerate((1, 2)):
        ways = []
        for origin, target in ((first, second), (second, first)):
            here, there = origin.surface(label), target.surface(label)
            nearest = KDTree(there.T * spacing).query(here.T * spacing)[1]
            ways.append(length_mm(here - there[:, nearest], first.spacing_mm[:, None]))
        within = np.concatenate(ways).astype(np.float32) <= np.float32(tolerance)
        np.testing.assert_array_max_ulp(
            agreement.hd95_mm[index], max(np.percentile(way, 95) for way in ways), 2
        )
        assert agreement.nsd[index] == within.mean()


def test_a_box_with_more_room_than_points_is_left_to_the_tree() -> None:
    scattered = (np.random.default_rng(0).random((2, 64, 64, 64)) < 0.001).astype(np.uint8)
    first, second = (LabelSurfaces(one, num_classes=2, spacing_mm=(1, 1, 1)) for one in scattered)
    with patch.object(columns, "_search", side_effect=AssertionError):
        surface_agreement(first, second, [1], 1.0)
    assert first._tree is not None
