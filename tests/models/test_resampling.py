"""Matrices per axis against the libraries they stand for: scipy, torch, MONAI, and nnU-Net where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Spacing
from scipy.ndimage import zoom

from robustvox.models.resampling import (
    NnUNetResampling,
    along,
    spacing_matrix,
    spacing_matrix_back,
    zoom_matrix,
)

SPACINGS = [
    ((1, 1, 1), (1.3, 0.8, 1.1)),
    ((5, 1, 1), (4, 0.9, 1.2)),
    ((1, 1, 1), (0.7, 0.7, 5)),
    ((1, 6, 1), (0.8, 4, 0.8)),
    ((0.2, 1, 1), (1, 1, 1)),
    ((5, 1, 1), (5, 0.9, 1.2)),
]


def volume(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("order", [1, 3])
def test_a_matrix_per_axis_is_scipys_zoom_of_the_volume(order):
    values = volume(9, 14, 11)
    shape = (13, 10, 17)
    expected = zoom(
        values.numpy(),
        [n / o for n, o in zip(shape, values.shape, strict=True)],
        order=order,
        mode="nearest",
        grid_mode=True,
    )
    for axis, side in enumerate(shape):
        values = along(values, zoom_matrix(values.shape[axis], side, order), axis)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("spacing", "wanted"), SPACINGS)
@pytest.mark.parametrize("order", [1, 3])
def test_equals_nnunets_resampling(spacing, wanted, order):
    reference = pytest.importorskip(
        "nnunetv2.preprocessing.resampling.default_resampling", reason="the reference; pip install nnunetv2"
    )
    values = volume(2, 13, 30, 27).float()
    shape = [round(o / n * side) for o, n, side in zip(spacing, wanted, values.shape[1:], strict=True)]
    expected = reference.resample_data_or_seg_to_shape(
        values.numpy(), shape, spacing, wanted, False, order, 0, None
    )
    found = NnUNetResampling(order=order)(values, shape, spacing, wanted)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)  # measured: 1e-6


@pytest.mark.parametrize(("spacing", "wanted"), SPACINGS[:3])
def test_equals_nnunets_resampling_by_torch(spacing, wanted):
    reference = pytest.importorskip(
        "nnunetv2.preprocessing.resampling.resample_torch", reason="the reference; pip install nnunetv2"
    )
    values = volume(2, 13, 30, 27).float()
    shape = [round(o / n * side) for o, n, side in zip(spacing, wanted, values.shape[1:], strict=True)]
    expected = reference.resample_torch_fornnunet(values.numpy(), shape, spacing, wanted)
    found = NnUNetResampling(name="resample_torch_fornnunet")(values, shape, spacing, wanted)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-5)  # measured: 9e-6


def test_slices_far_apart_are_resampled_one_by_one():
    values = volume(1, 4, 6, 6)
    found = NnUNetResampling()(values, (8, 6, 6), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0))
    # Across slices the nearest one is taken, so every slice is one of the old.
    torch.testing.assert_close(found, values.repeat_interleave(2, dim=1))


def test_a_spline_stays_in_the_range_of_its_input_and_passes_gradients():
    values = torch.zeros(1, 8, 8, 8, dtype=torch.float64)
    values[:, 3:5, 3:5, 3:5] = 1.0
    found = NnUNetResampling()(values, (13, 13, 13), (1.0,) * 3, (8 / 13,) * 3)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    # At a flat background the gradient belongs to the voxel itself, not to whichever voxel is the least.
    leaf = values.clone().requires_grad_()
    NnUNetResampling()(leaf, (8, 8, 9), (1.0,) * 3, (1.0, 1.0, 8 / 9))[0, 0, 0].sum().backward()
    assert leaf.grad is not None
    assert float(leaf.grad[0, 0, 0].sum()) == pytest.approx(9.0)
    smooth = volume(1, 4, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: NnUNetResampling()(v, (5, 4, 7), (1, 1, 1), (0.8, 1.2, 0.9)), smooth
    )


@pytest.mark.parametrize("wanted", [(1.5, 1.5, 2.0), (0.8, 0.9, 0.7), (3.0, 2.2, 1.1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
def test_equals_monais_spacing(wanted, signs):
    values, spacing = volume(1, 13, 17, 11).float(), (0.9, 1.1, 2.0)
    affine = torch.diag(
        torch.tensor([*(s * d for s, d in zip(signs, spacing, strict=True)), 1.0], dtype=torch.float64)
    )
    expected = Spacing(wanted, mode="bilinear", padding_mode="border")(
        MetaTensor(values.clone(), affine=affine)
    )
    found = values
    for axis, (old, new) in enumerate(zip(spacing, wanted, strict=True), start=1):
        found = along(found, spacing_matrix(found.shape[axis], old, new, 1), axis)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), np.asarray(expected), atol=1e-5)


def test_the_way_back_gives_a_ramp_again():
    ramp = torch.arange(20.0, dtype=torch.float64)[None]
    there = along(ramp, spacing_matrix(20, 1.0, 1.5, 1), 1)
    back = along(there, spacing_matrix_back(20, there.shape[1], 1.0, 1.5), 1)
    torch.testing.assert_close(back[:, :19], ramp[:, :19])


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("os.system", {}),
        ("resample_data_or_seg_to_shape", {"order": 3, "own": 1}),
        ("resample_torch_fornnunet", {"mode": "area"}),
    ],
)
def test_what_is_not_known_is_named(name, given):
    with pytest.raises(ValueError, match=f"found (.*{name.partition('.')[0]}|own|mode)"):
        NnUNetResampling.of(name, given)
