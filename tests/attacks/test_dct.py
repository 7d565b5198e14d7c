"""The blockwise DCT against SciPy, against loops, and against itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks.dct import crop, dct, dct_matrix, idct, merge_blocks, pad_to_blocks, split_blocks


def volume(spatial, *, channels=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *spatial, generator=generator, dtype=dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 32])
def test_matrix_is_orthonormal(size):
    matrix = dct_matrix(size, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    ("spatial", "size"), [((8, 12), 4), ((6, 3, 9), 3), ((4, 8, 4), 4), ((2, 4, 2, 6), 2)]
)
def test_every_block_is_scipys_dctn(spatial, size):
    dctn = pytest.importorskip("scipy.fft").dctn
    x = volume(spatial)
    coefficients = dct(x, size)
    for b, c in itertools.product(range(2), range(2)):
        for corner in itertools.product(*(range(0, side, size) for side in spatial)):
            block = (b, c, *(slice(start, start + size) for start in corner))
            expected = torch.from_numpy(dctn(x[block].numpy(), norm="ortho"))
            torch.testing.assert_close(coefficients[block], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("spatial", "size"), [((8, 12), 4), ((32, 64, 32), 32), ((6, 9, 3), 3)])
def test_round_trip_and_parseval(spatial, size, dtype, tolerance):
    x = volume(spatial, dtype=dtype)
    coefficients = dct(x, size)
    torch.testing.assert_close(idct(coefficients, size), x, atol=tolerance, rtol=0)
    energy, spectral = (split_blocks(v, size).flatten(3).square().sum(3) for v in (x, coefficients))
    torch.testing.assert_close(energy, spectral, rtol=10 * tolerance, atol=0)


def test_constant_block_has_only_a_dc():
    x = torch.full((1, 1, 8, 4, 4), 0.37, dtype=torch.float64)
    blocks = split_blocks(dct(x, 4), 4).flatten(3)
    torch.testing.assert_close(blocks[..., 0], torch.full((1, 1, 2), 0.37 * 8, dtype=torch.float64))
    assert blocks[..., 1:].abs().max() < 1e-14


def test_chosen_axes_transform_slices():
    dctn = pytest.importorskip("scipy.fft").dctn
    x = volume((4, 8, 3))
    coefficients = dct(x, 4, axes=(2, 3))
    expected = torch.from_numpy(dctn(x[1, 0, :, 4:, 2].numpy(), norm="ortho"))
    torch.testing.assert_close(coefficients[1, 0, :, 4:, 2], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(idct(coefficients, 4, axes=(2, 3)), x)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 5), grid=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_split_and_merge_are_exact_inverses(size, grid):
    spatial = [size * g for g in grid]
    x = volume(spatial)
    blocks = split_blocks(x, size)
    corners = list(itertools.product(*(range(0, side, size) for side in spatial)))
    assert blocks.shape == (2, 2, len(corners), *[size] * len(spatial))
    for m, corner in enumerate(corners):
        assert torch.equal(blocks[:, :, m], x[(..., *(slice(c, c + size) for c in corner))])
    assert torch.equal(merge_blocks(blocks, spatial), x)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 6), spatial=st.lists(st.integers(1, 7), min_size=2, max_size=3))
def test_padding_repeats_the_edge_and_is_undone(size, spatial):
    x = volume(spatial)
    padded = pad_to_blocks(x, size)
    assert all(
        side % size == 0 and side - size < old for side, old in zip(padded.shape[2:], spatial, strict=True)
    )
    assert torch.equal(crop(padded, spatial), x)
    corner = (..., *[-1] * len(spatial))
    assert torch.equal(padded[corner], x[corner])
    assert set(padded.flatten().tolist()) == set(x.flatten().tolist())


def test_transform_ignores_autocast():
    x = torch.rand(1, 1, 8, 8, 8)
    expected = dct(x, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dct(x, 8), expected)


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"divisible by block_size = 4, got \(8, 6\)"):
        dct(torch.zeros(1, 1, 8, 6), 4)
