"""Smooth: its blur, its formula, and what it is without one. SmoothNoise: its control."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from robustvox.attacks import MIFGSM, Smooth, SmoothNoise, Uniform
from robustvox.attacks.blur import blur


@pytest.mark.parametrize("spatial", [(9, 8), (9, 4, 6), (1, 7, 3)])
@pytest.mark.parametrize("sigma", [0.4, 1.5, 4.0])
def test_the_blur_is_scipys(spatial, sigma):
    volume = torch.randn(2, 3, *spatial, dtype=torch.float64)
    expected = np.stack(
        [
            [
                gaussian_filter(channel, sigma, mode="constant", radius=int(np.ceil(3 * sigma)))
                for channel in sample
            ]
            for sample in volume.numpy()
        ]
    )
    np.testing.assert_allclose(blur(volume, sigma).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_blur_it_is_mifgsm_bit_for_bit(dtype, make_case):
    model, images, labels = make_case(dtype=dtype, channels=2)
    ours = Smooth(sigma=0.0, steps=6)(model, images, labels)
    assert torch.equal(ours, MIFGSM(steps=6)(model, images, labels))
    assert not torch.equal(ours, Smooth(steps=6)(model, images, labels))


@pytest.mark.parametrize("spatial", [(6, 7), (6, 7, 5)])
def test_follows_its_formula(spatial, make_case):
    model, images, labels = make_case(spatial, dtype=torch.float64, channels=2)
    visited = []
    attack = Smooth(eps=0.1, alpha=0.03, steps=4, momentum=0.7, sigma=0.8, loss="ce")
    attack(lambda x: visited.append(x.detach().clone()) or model(x), images, labels)
    for sample in range(2):
        clean, point = images[[sample]], images[[sample]]
        g = torch.zeros_like(clean)
        for step in range(5):
            torch.testing.assert_close(visited[step][[sample]], point, atol=1e-12, rtol=0)
            point = point.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(point), labels[[sample], 0])
            (gradient,) = torch.autograd.grad(loss, point)
            channels = [gaussian_filter(c, 0.8, mode="constant", radius=3) for c in gradient[0].numpy()]
            smoothed = torch.from_numpy(np.stack(channels))[None]
            g = 0.7 * g + smoothed / smoothed.abs().sum()
            point = (point.detach() + 0.03 * g.sign()).clamp(clean - 0.1, clean + 0.1).clamp(0, 1)


def roughness(perturbation):
    """Share of neighboring voxels along the last axis whose signs differ."""
    signs = perturbation.sign()
    return (signs[..., 1:] != signs[..., :-1]).double().mean().item()


def test_the_perturbation_is_smoother_and_its_control_as_smooth(make_case):
    model, images, labels = make_case((16, 16, 16), batch=1)
    images = images * 0.5 + 0.25
    rough = MIFGSM(steps=5)(model, images, labels) - images
    smooth = Smooth(steps=5)(model, images, labels) - images
    noise = SmoothNoise()(model, images, labels) - images
    assert roughness(smooth) < 0.7 * roughness(rough)
    # Two neighbors of Gaussian noise blurred with s correlate by exp(-1/(4 s^2)); their signs differ in
    # acos(of that)/pi of all pairs: 0.147 at 1.5 voxels.
    assert abs(roughness(noise) - np.arccos(np.exp(-1 / (4 * 1.5**2))) / np.pi) < 0.02


def test_noise_moves_every_voxel_to_the_edge_and_depends_on_the_generator_alone(make_case):
    model, images, labels = make_case(batch=2)
    inside = images * 0.5 + 0.25
    first = SmoothNoise(eps=0.1)(model, inside, labels, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((first - inside).abs(), torch.full_like(inside, 0.1))
    assert model.forwards == 0
    again = SmoothNoise(eps=0.1)(model, inside, labels, generator=torch.Generator().manual_seed(1))
    other = SmoothNoise(eps=0.1)(model, inside, labels, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_blur_the_noise_is_signs_like_those_of_corner_noise(make_case):
    model, images, labels = make_case((20, 20, 20), batch=1)
    for attack in (SmoothNoise(sigma=0.0), Uniform(corners=True)):
        inside = images * 0.5 + 0.25
        signs = (attack(model, inside, labels) - inside).sign()
        assert abs(roughness(signs) - 0.5) < 0.03


@pytest.mark.parametrize("kind", [Smooth, SmoothNoise])
@pytest.mark.parametrize("value", [-0.1, 101, float("nan"), "1", True])
def test_bad_sigma_is_refused(kind, value):
    with pytest.raises(ValueError, match="sigma: expected a"):
        kind(sigma=value)
