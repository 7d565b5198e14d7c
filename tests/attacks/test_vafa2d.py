"""VAFA2D: every slice on its own, equal to VAFA on images, the L2 bound per square."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustvox.attacks import VAFA, VAFA2D
from robustvox.attacks.base import ball
from robustvox.attacks.dct import dct, pad_to_blocks, split_blocks


def by_slices(volume):
    """(B, C, h, w, D) as D images (B, C, h, w)."""
    return volume.unbind(-1)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("renorm", ["none", "slice"])
@pytest.mark.parametrize("spatial", [(9, 14, 5), (8, 3, 1)])
def test_decode_is_vafa_of_every_slice(spatial, renorm, hard):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, *spatial, generator=generator, dtype=torch.float64)
    flat = VAFA(block_size=4, renorm=renorm, hard_rounding=hard)
    attack = VAFA2D(block_size=4, renorm=renorm, hard_rounding=hard)
    spectrum = dct(pad_to_blocks(images, 4, (2, 3)) * 255 - 128, 4, (2, 3))
    assert spectrum.shape[2:] == (-(-spatial[0] // 4) * 4, -(-spatial[1] // 4) * 4, spatial[2])
    table = 1 + 19 * torch.rand(spectrum.shape, generator=generator, dtype=torch.float64)
    whole = attack.decode(spectrum, table, 7, images.shape[2:], ball(images, 1.0))
    for d, image in enumerate(by_slices(images)):
        squares = dct(pad_to_blocks(image, 4) * 255 - 128, 4)
        alone = flat.decode(squares, table[..., d], 7, image.shape[2:], ball(image, 1.0))
        torch.testing.assert_close(whole[..., d], alone, atol=1e-12, rtol=0)
    assert (whole - images).abs().max() > 0.001


@pytest.mark.parametrize("q_init", ["max", "one"])
def test_volume_is_attacked_like_its_slices_alone(q_init, make_case):
    """With a pointwise model and cross entropy nothing couples the slices but the transform under test."""
    model, images, labels = make_case((9, 6, 5), batch=2, pointwise=True, dtype=torch.float64)
    planar = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Tanh(), nn.Conv2d(6, 3, 1)).double()
    planar.load_state_dict(
        {
            name: value.squeeze(-1) if value.ndim == 5 else value
            for name, value in model.body.state_dict().items()
        }
    )

    def visited(attack, network, images, labels):
        points = []
        attack(lambda x: points.append(x.detach().clone()) or network(x), images, labels)
        return points

    settings = {"loss": "ce", "steps": 6, "block_size": 4, "q_init": q_init, "ssim_weight": 0.0}
    volumes = visited(VAFA2D(**settings), model, images, labels)
    for d, (image, label) in enumerate(zip(by_slices(images), by_slices(labels), strict=True)):
        alone = visited(VAFA(**settings), planar, image, label)
        assert len(alone) == len(volumes) == 7
        for volume, expected in zip(volumes, alone, strict=True):
            torch.testing.assert_close(volume[..., d], expected, atol=1e-10, rtol=0)
    cubes = visited(VAFA(**settings), model, images, labels)
    assert (cubes[-1] - volumes[-1]).abs().max() > 1e-3


def test_a_slice_does_not_depend_on_its_neighbors(make_case):
    model, images, labels = make_case((8, 8, 6), pointwise=True, dtype=torch.float64)
    other = images.clone()
    other[..., 3] = 1 - other[..., 3]
    one, two = (VAFA2D(steps=0)(model, x, labels) for x in (images, other))
    rest = [0, 1, 2, 4, 5]
    assert torch.equal(one[..., rest], two[..., rest])
    assert not torch.equal(one[..., 3], two[..., 3])
    cubes = [VAFA(steps=0, block_size=8)(model, x, labels) for x in (images, other)]
    assert not torch.equal(cubes[0][..., rest], cubes[1][..., rest])


@pytest.mark.parametrize("settings", [{}, {"ssim_weight": 1.0, "eps": 4 / 255, "q_min": 5.0}])
def test_equals_vafa_on_images(settings, make_case):
    model, images, labels = make_case((11, 18), channels=2)
    common = {"block_size": 8, "ssim_weight": 0.0, "steps": 5} | settings
    assert torch.equal(VAFA2D(**common)(model, images, labels), VAFA(**common)(model, images, labels))


@pytest.mark.parametrize(("hard", "r"), [(False, 0.22), (True, 0.5)])
def test_l2_bound_per_square(hard, r, make_case):
    model, images, labels = make_case((8, 16, 5), dtype=torch.float64)
    delta = VAFA2D(q_max=40.0, hard_rounding=hard)(model, images, labels) - images
    norms = torch.stack([split_blocks(one, 8).flatten(3).norm(dim=3) for one in by_slices(delta)])
    bound = r * 40.0 * math.sqrt(8**2) / 255
    assert norms.max() <= bound
    assert norms.max() > 0.05 * bound


def test_defaults():
    attack = VAFA2D()
    assert (attack.steps, attack.block_size, attack.ssim_weight, attack.axes) == (20, 8, 0.0, (2, 3))
    assert "axes" not in {*vars(attack)}
    with pytest.raises(ValueError, match="q_max: expected a finite number >= 1"):
        VAFA2D(q_max=0.5)
