"""What every architecture of the registry must do. A new one gets these tests by entering ``MODELS``."""

from __future__ import annotations

import re

import pytest
import torch

from robustvox.models import CATALOG, MODELS, build_model

ROI = (48, 32, 32)
PAPER_PARAMETERS = {"unet": 4_822_057, "segresnet": 18_796_398, "unetr": 92_802_478, "swin_unetr": 62_187_296}


def small(name: str, in_channels: int = 1, num_classes: int = 3, roi=ROI):
    return build_model(
        name, in_channels=in_channels, num_classes=num_classes, roi_size=roi, size="small"
    ).eval()


def smallest(name: str) -> tuple[torch.nn.Module, tuple[int, int, int]]:
    """The small network with the smallest of some windows that it takes: double precision is slow."""
    for roi in ((32, 16, 16), (32, 32, 32), (64, 32, 32)):
        try:
            network = small(name, roi=roi)
            network(torch.rand(1, 1, *roi))
        except ValueError:
            continue
        return network, roi
    return small(name), ROI


def test_catalog_and_registry_agree():
    assert list(CATALOG) == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_maps_a_window_to_logits_and_back_to_input_gradients(name):
    network = small(name, in_channels=2)
    images = torch.rand(1, 2, *ROI, requires_grad=True)
    logits = network(images)
    assert logits.shape == (1, 3, *ROI)
    (gradient,) = torch.autograd.grad(logits.square().mean(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_its_items(name):
    """In float64: norms of nearly constant tokens amplify the rounding of float32 to 1e-3 in a few voxels."""
    network, roi = smallest(name)
    network = network.double()
    images = torch.rand(2, 1, *roi, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images), torch.cat([network(i[None]) for i in images]), atol=1e-8, rtol=1e-6
        )


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(small(name).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("name", MODELS)
def test_small_fits_the_zoo(name):
    parameters = sum(p.numel() for p in small(name, num_classes=8).parameters())
    assert 2 * parameters < 3 * 2**20, (
        f"{parameters} parameters in half precision exceed the 3 MiB of the phantom zoo"
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_window_it_cannot_take_is_refused_with_one_it_can(name):
    with pytest.raises(ValueError, match="multiple") as caught:
        small(name, roi=(47, 33, 31))
    offered = re.findall(r"\((\d+), (\d+), (\d+)\)", str(caught.value))[-1]
    nearest = tuple(map(int, offered))
    assert small(name, roi=nearest)(torch.rand(1, 1, *nearest)).shape[2:] == nearest


@pytest.mark.parametrize(("name", "count"), PAPER_PARAMETERS.items())
def test_paper_sizes_have_the_published_parameters(name, count):
    network = build_model(name, in_channels=1, num_classes=14, roi_size=(96, 96, 96))
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unettt"}, "unet, segresnet"),
        ({"size": "tiny"}, "tiny"),
        ({"num_classes": 1}, "num_classes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"name": "unet", "in_channels": 1, "num_classes": 2, "roi_size": ROI, **arguments})
