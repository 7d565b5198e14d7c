"""The radial filter: linear, shift-equivariant, its own adjoint, and in the right units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.models.filtered import Filtered, RadialFilter

CURVE = ((0.05, 0.2, 0.5, 0.9), (1.0, 2.5, 0.4, 3.0))
SIDES = st.sampled_from([1, 2, 5, 6, 9])


def numpy_filter(volume, spacing):
    """The same by the full complex DFT."""
    axes = [np.fft.fftfreq(n, mm) for n, mm in zip(volume.shape[2:], spacing, strict=True)]
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(*axes, indexing="ij")))
    gain = np.where(radius == 0, 1.0, np.interp(radius, *CURVE))
    over = tuple(range(2, volume.ndim))
    return np.fft.ifftn(np.fft.fftn(volume, axes=over) * gain, axes=over).real


@settings(max_examples=30, deadline=None)
@given(spatial=st.lists(SIDES, min_size=2, max_size=3), seed=st.integers(0, 99))
def test_is_the_dft_filter_of_numpy(spatial, seed):
    spacing = (1.0, 0.8, 2.5)[: len(spatial)]
    volume = np.random.default_rng(seed).normal(size=(2, 2, *spatial))
    ours = RadialFilter(*CURVE, spacing)(torch.from_numpy(volume))
    np.testing.assert_allclose(ours.numpy(), numpy_filter(volume, spacing), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(spatial=st.lists(SIDES, min_size=3, max_size=3), seed=st.integers(0, 99))
def test_linear_shift_equivariant_and_its_own_adjoint(spatial, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 1, 1, *spatial, generator=generator, dtype=torch.float64)
    apply = RadialFilter(*CURVE, (1.0, 1.5, 0.9))
    torch.testing.assert_close(apply(2 * x - 3 * y), 2 * apply(x) - 3 * apply(y))
    moved = (1, 2, 1)
    torch.testing.assert_close(apply(x.roll(moved, (2, 3, 4))), apply(x).roll(moved, (2, 3, 4)))
    torch.testing.assert_close((apply(x) * y).sum(), (x * apply(y)).sum())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((apply(x) * y).sum(), x)
    torch.testing.assert_close(gradient, apply(y))


def test_the_mean_stays_and_dtypes_too():
    apply = RadialFilter((0.0, 0.5), (7.0, 7.0), (1.0, 1.0, 1.0))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.rand(1, 1, 8, 8, 8).to(dtype)
        seen = apply(x)
        assert seen.dtype == dtype
        assert abs(float(seen.double().mean() - x.double().mean())) < 1e-2
    constant = torch.full((1, 1, 5, 6, 7), 0.3)
    torch.testing.assert_close(apply(constant), constant)


def test_a_model_behind_a_filter_sees_the_clipped_volume_and_passes_gradients():
    apply = RadialFilter((0.0, 0.5), (1.0, 6.0), (1.0, 1.0, 1.0))
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.cat([x, -x], 1)

    x = torch.rand(1, 1, 6, 6, 6, requires_grad=True)
    Filtered(Watch(), apply)(x).square().sum().backward()
    assert 0 <= seen[0].min() < seen[0].max() <= 1
    torch.testing.assert_close(seen[0], apply(x).clamp(0, 1))
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(((0.1,), (1.0,), (1.0,)), "at least two frequencies"), (((0.1, 0.1), (1.0, 1.0), (1.0,)), "increasing"),
     (((0.1, 0.2), (1.0, float("nan")), (1.0,)), "finite gains"), (((0.1, 0.2), (1.0, 1.0), (0.0,)), "spacing > 0")],
)  # fmt: skip
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RadialFilter(*arguments)


def test_a_volume_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="3 spatial axes"):
        RadialFilter((0.0, 0.5), (1.0, 1.0), (1.0, 1.0, 1.0))(torch.rand(1, 1, 4, 4))
