"""The contract: any region of any shape, and volumes without any structure."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustvox.attacks import Attack
from robustvox.attacks.task import BestIterate, input_gradient


def check_geometry(attack, spatial, channels=1, classes=2, batch=2, seed=0):
    """A random linear net on random images and labels: valid, in budget, moved in every sample."""
    source = torch.Generator().manual_seed(seed)
    model = {2: nn.Conv2d, 3: nn.Conv3d}[len(spatial)](channels, classes, 3, padding=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    images = torch.rand(batch, channels, *spatial, generator=source)
    labels = torch.randint(0, classes, (batch, 1, *spatial), generator=source)
    adversarial = attack(model, images, labels)
    assert adversarial.shape == images.shape
    assert torch.isfinite(adversarial).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    if attack.radius is not None:
        assert (adversarial.double() - images.double()).abs().max().item() <= attack.radius
    return (adversarial - images).abs().flatten(1).amax(1)


def check_constant(attack, case, region, value):
    """Constant voxels: the result, every loss on the way and every gradient of the model are finite."""
    case.images[..., region] = value
    gradients, seen = [], []

    def watched(images):
        if images.requires_grad:
            images.register_hook(lambda gradient: gradients.append(gradient.clone()))
        return case.model(images)

    adversarial = attack(watched, case.images, case.labels, on_step=seen.append)
    assert torch.isfinite(adversarial).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    # A gradient that is not finite spoils the next point; the best iterate alone would hide it.
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(torch.isfinite(info.loss).all() for info in seen)
    assert bool(gradients) == (case.model.backwards > 0)
    if attack.radius is not None:
        assert (adversarial.double() - case.images.double()).abs().max().item() <= attack.radius


# --- shapes -------------------------------------------------------------------------------------

SIDES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 11, 13])  # block size is 4: below, equal, multiple, prime


@settings(max_examples=25, deadline=None)
@given(
    spatial=st.lists(SIDES, min_size=2, max_size=3),
    channels=st.integers(1, 2),
    classes=st.integers(2, 6),
    batch=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_any_geometry(any_key, quick, spatial, channels, classes, batch, seed):
    check_geometry(quick(any_key), spatial, channels, classes, batch, seed)


@pytest.mark.parametrize(
    "spatial",
    [(1, 11, 9), (11, 1, 9), (11, 9, 1), (2, 3, 23), (17, 3, 2), (3, 3, 3), (24, 5, 7), (13, 19), (1, 7)],
)
def test_thin_long_and_small_volumes(any_key, quick, spatial):
    moved = check_geometry(quick(any_key), spatial, classes=4)
    assert moved.min() > 0


def test_a_single_voxel(any_key, quick):
    check_geometry(quick(any_key), (1, 1, 1))
    check_geometry(quick(any_key), (1, 1), channels=2, classes=3)


def test_blocks_wider_than_the_volume(any_key, quick):
    attack = quick(any_key)
    if hasattr(attack, "block_size"):
        assert check_geometry(quick(any_key, block_size=32), (5, 7, 6)).min() > 0
        assert check_geometry(quick(any_key, block_size=2), (5, 7, 6)).min() > 0
    assert check_geometry(attack, (5, 7, 6)).min() > 0


def test_memory_layout_does_not_matter(any_key, make_case, quick):
    """Crops, permuted axes and channels-last volumes are what pipelines hand over."""
    model, images, labels = make_case((6, 7, 5), channels=2, pointwise=True, dtype=torch.float64)
    expected = quick(any_key)(model, images, labels)
    room = torch.zeros(2, 2, 9, 9, 9, dtype=torch.float64)
    room[..., 1:7, 2:9, 3:8] = images
    for strided in (room[..., 1:7, 2:9, 3:8], images.contiguous(memory_format=torch.channels_last_3d)):
        assert not strided.is_contiguous()
        result = quick(any_key)(model, strided, labels.transpose(2, 4).contiguous().transpose(2, 4))
        torch.testing.assert_close(result, expected, atol=1e-9, rtol=0)


# --- constant volumes ---------------------------------------------------------------------------


@pytest.mark.parametrize("region", [slice(None), slice(2, 3), slice(0, 4)], ids=["volume", "slice", "slab"])
@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_constant_regions_stay_finite(any_key, region, value, make_case, quick):
    check_constant(quick(any_key), make_case((8, 9, 8)), region, value)


def test_one_constant_sample_among_others(any_key, make_case, quick):
    case = make_case((8, 9, 8), batch=2)
    case.images[0] = 0.0
    check_constant(quick(any_key), case, slice(2, 3), 0.0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_everywhere(any_key, label, make_case, quick):
    """A crop without organs and one filled by a single organ."""
    model, images, labels = make_case(classes=4)
    seen = []
    adversarial = quick(any_key)(model, images, torch.full_like(labels, label), on_step=seen.append)
    assert torch.isfinite(adversarial).all()
    assert all(torch.isfinite(info.loss).all() for info in seen)


# --- the contract catches -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stretching(Attack):
    """Stretches the volume to [0, 1], as published code does: 0 / 0 where it is constant."""

    def perturb(self, task):
        return (task.images - task.images.amin()) / (task.images.amax() - task.images.amin())


def _spread(images):
    centered = (images - images.mean()).flatten(1)
    return centered.square().mean(1).sqrt()


@dataclass(frozen=True, kw_only=True)
class Normalizing(Attack):
    """Has a square root of zero in its objective where all is constant; its best iterate hides the NaN."""

    def perturb(self, task):
        best, images = BestIterate(task, 1), task.images
        for step in range(2):
            images = images.detach().requires_grad_()
            logits = task.logits(images)
            loss = task.objective("ce")(logits, step) + _spread(images)
            best.offer(images, logits, loss)
            images = (images + 0.1 * input_gradient(loss, images).sign()).clamp(0, 1)
        return best.images


@dataclass(frozen=True, kw_only=True)
class Cubic(Attack):
    """Forgets what a whole number of blocks does not cover."""

    def perturb(self, task):
        size = task.images.shape[-1] // 4 * 4
        moved = task.images.clone()
        moved[..., :size] = 1 - moved[..., :size]
        return moved


def test_the_contract_catches_what_breaks_on_constant_volumes(make_case):
    check_constant(Normalizing(), make_case((8, 9, 8)), slice(2, 3), 0.37)
    with pytest.raises(AssertionError):
        check_constant(Normalizing(), make_case((8, 9, 8)), slice(None), 0.0)
    with pytest.raises(RuntimeError, match="by nan"):
        check_constant(Stretching(), make_case((8, 9, 8)), slice(None), 0.37)


def test_the_contract_catches_a_region_that_does_not_move():
    assert check_geometry(Cubic(), (5, 7, 6)).min() > 0
    assert check_geometry(Cubic(), (11, 9, 1)).min() == 0
