"""The blockwise DCT against SciPy, against loops, and against itself."""

from __future__ import annotations

import itertools
import math

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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    ("spatial", "size"),
    [((8, 12), 4), ((6, 3, 9), 3), ((4, 8, 4), 4), ((2, 4, 2, 6), 2), ((16, 8, 24), 8), ((32, 32, 64), 32)],
)
def test_every_block_is_scipys_dctn(spatial, size, dtype, tolerance):
    dctn = pytest.importorskip("scipy.fft").dctn
    x = volume(spatial, dtype=dtype)
    coefficients = dct(x, size)
    assert coefficients.dtype == dtype
    for b, c in itertools.product(range(2), range(2)):
        for corner in itertools.product(*(range(0, side, size) for side in spatial)):
            block = (b, c, *(slice(start, start + size) for start in corner))
            expected = torch.from_numpy(dctn(x[block].double().numpy(), norm="ortho"))
            torch.testing.assert_close(coefficients[block].double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("spatial", [(6, 9), (3, 6, 9)])
def test_every_coefficient_by_loops(spatial):
    """The definition, without any library: sum_x v(x) prod_a s(k_a) cos(pi (x_a + 1/2) k_a / n)."""
    n, x = 3, volume(spatial)
    coefficients = dct(x, n)
    positions = list(itertools.product(*map(range, spatial)))
    for target in positions[::5]:
        k = [t % n for t in target]
        expected = torch.zeros(2, 2, dtype=torch.float64)
        for source in positions:
            if all(s // n == t // n for s, t in zip(source, target, strict=True)):
                weight = math.prod(
                    math.sqrt((1 if f == 0 else 2) / n) * math.cos(math.pi * (s % n + 0.5) * f / n)
                    for s, f in zip(source, k, strict=True)
                )
                expected += weight * x[(..., *source)]
        torch.testing.assert_close(coefficients[(..., *target)], expected, atol=1e-13, rtol=0)


def test_transform_is_linear_and_its_gradient_is_its_inverse():
    x, y = volume((8, 4, 12), seed=1), volume((8, 4, 12), seed=2)
    torch.testing.assert_close(dct(2.5 * x - 3 * y, 4), 2.5 * dct(x, 4) - 3 * dct(y, 4), atol=1e-12, rtol=0)
    for transform, inverse in ((dct, idct), (idct, dct)):
        variable = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(transform(variable, 4), variable, y)
        torch.testing.assert_close(gradient, inverse(y, 4), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 8, 32])
def test_a_wave_lands_on_its_own_frequency(size):
    """Low rows are slow waves: what makes a band of small indices a low band."""
    for k in range(size):
        wave = torch.cos(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) * k / size)
        coefficients = dct(wave.expand(1, 1, size, size), size)[0, 0]
        off = coefficients.clone()
        off[0, k] = 0
        assert coefficients[0, k] > 0.5
        assert off.abs().max() < 1e-12


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("spatial", "size"), [((8, 12), 4), ((32, 64, 32), 32), ((6, 9, 3), 3)])
def test_round_trip_and_parseval(spatial, size, dtype, tolerance):
    x = volume(spatial, dtype=dtype)
    coefficients = dct(x, size)
    torch.testing.assert_close(idct(coefficients, size), x, atol=tolerance, rtol=0)
    energy, spectral = (split_blocks(v, size).flatten(3).square().sum(3) for v in (x, coefficients))
    torch.testing.assert_close(energy, spectral, rtol=10 * tolerance, atol=0)


@pytest.mark.parametrize("value", [0.37, -2.0, 1.0])
@pytest.mark.parametrize(("spatial", "size"), [((8, 4, 4), 4), ((9, 3), 3), ((8, 8, 16), 8)])
def test_constant_block_has_only_a_dc(spatial, size, value):
    x = torch.full((1, 1, *spatial), value, dtype=torch.float64)
    blocks = split_blocks(dct(x, size), size).flatten(3)
    expected = torch.full(blocks.shape[:3], value * math.sqrt(size ** len(spatial)), dtype=torch.float64)
    torch.testing.assert_close(blocks[..., 0], expected)
    assert blocks[..., 1:].abs().max() < 1e-13


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


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axis_order_is_free(order):
    """Unequal sides in every order: H and W, or any two axes, cannot be mixed up unnoticed."""
    x = volume((4, 6, 8))
    axes = (0, 1, *(2 + axis for axis in order))
    turned = x.permute(axes)
    blocks = split_blocks(turned, 2)
    assert torch.equal(merge_blocks(blocks, turned.shape[2:]), turned)
    first = turned[..., :2, :2, :2]
    assert torch.equal(blocks[:, :, 0], first)
    torch.testing.assert_close(dct(turned, 2), dct(x, 2).permute(axes), atol=1e-14, rtol=0)
    torch.testing.assert_close(idct(dct(turned, 2), 2), turned, atol=1e-13, rtol=0)


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


def test_cropping_nothing_is_free():
    x = volume((4, 6))
    assert crop(x, (4, 6)) is x


def test_sides_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"divisible by block_size = 4, got \(8, 6\)"):
        dct(torch.zeros(1, 1, 8, 6), 4)
