"""MambaUNet: shapes, gradients, independence of the batch, refusal of sizes it cannot take."""

import pytest
import torch

from robustvox.models.mamba import MambaUNet
from robustvox.models.mamba.unet import build


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MambaUNet(2, 3, channels=(8, 12, 16))


@pytest.mark.parametrize("size", [(8, 8, 8), (12, 16, 8), (4, 4, 8), (20, 8, 4)])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_has_the_size_of_the_input(network, size, batch):
    assert network(torch.randn(batch, 2, *size)).shape == (batch, 3, *size)


def test_gradient_reaches_the_whole_input_and_every_parameter(network):
    image = torch.randn(1, 2, 12, 16, 8, requires_grad=True)
    logits = network(image)
    (logits * torch.randn_like(logits)).sum().backward()
    assert bool(torch.isfinite(image.grad).all())
    assert (image.grad != 0).float().mean() > 0.99
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name


def test_gradient_is_the_derivative(network):
    """A central difference along a random direction, in float64."""
    network.double()
    image = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(image)
    weight = torch.randn(1, 3, 8, 8, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((network(image) * weight).sum(), image)
    with torch.no_grad():
        ahead = (network(image + 1e-6 * direction) * weight).sum()
        behind = (network(image - 1e-6 * direction) * weight).sum()
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def test_batch_of_four_equals_four_batches_of_one(network):
    images = torch.randn(4, 2, 8, 12, 8, requires_grad=True)
    together = network(images)
    apart = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(together)
    torch.testing.assert_close(
        torch.autograd.grad((together * weight).sum(), images)[0],
        torch.autograd.grad((apart * weight).sum(), images)[0],
        rtol=1e-3,
        atol=1e-5,
    )


def test_training_mode_does_not_change_the_output(network):
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(network.train()(image), network.eval()(image))


def test_coarse_layer_sees_the_whole_volume():
    """One voxel in either corner moves the opposite corner: both reading directions are in use."""
    torch.manual_seed(0)
    network = MambaUNet(1, 2, channels=(4, 8, 8)).double()
    image = torch.randn(1, 1, 24, 24, 24, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    for here, there in [(0, -1), (-1, 0)]:
        (gradient,) = torch.autograd.grad(logits[0, 0, here, here, here], image, retain_graph=True)
        assert gradient[0, 0, there, there, there].abs() > 0


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((10, 8, 8), [(8, 8, 8), (12, 8, 8)]), ((9, 7, 1), [(8, 4, 4), (12, 8, 4)]), ((4, 4, 4), [(4, 4, 8)])],
)
def test_bad_sizes_are_refused_with_sizes_that_work(network, size, nearest):
    with pytest.raises(ValueError, match="nearest size") as error:
        network(torch.randn(1, 2, *size))
    for good in nearest:
        assert str(good) in str(error.value)
        if good != (4, 4, 4):
            network(torch.randn(1, 2, *good))


def test_other_bad_inputs_are_refused(network):
    with pytest.raises(ValueError, match=r"expected images of shape \(B,2,X,Y,Z\)"):
        network(torch.randn(1, 1, 8, 8, 8))
    with pytest.raises(ValueError, match=r"expected images of shape \(B,2,X,Y,Z\)"):
        network(torch.randn(2, 8, 8, 8))
    with pytest.raises(ValueError, match="2 or more channels"):
        MambaUNet(1, 2, channels=(8,))
    with pytest.raises(ValueError, match="mamba_levels=3"):
        MambaUNet(1, 2, channels=(8, 8, 8), mamba_levels=3)
    with pytest.raises(ValueError, match="positive sizes"):
        MambaUNet(1, 0, channels=(8, 8, 8))


def test_small_configuration_fits_its_budget():
    network = build(1, 8, (48, 64, 48), size="small")
    count = sum(p.numel() for p in network.parameters())
    assert count < 1_200_000
    assert 2 * count < 3_000_000
    assert network.divisor == 8
    assert network(torch.randn(1, 1, 16, 24, 16)).shape == (1, 8, 16, 24, 16)


def test_build_overrides_and_refusals():
    assert build(1, 2, (8, 8, 8), size="small", channels=(4, 8), mamba_levels=1).divisor == 2
    assert sum(p.numel() for p in build(1, 2, (96, 96, 96)).parameters()) > 5_000_000
    with pytest.raises(ValueError, match=r"one of \['paper', 'small'\], got 'tiny'"):
        build(1, 2, (96, 96, 96), size="tiny")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got \\['depth'\\]"):
        build(1, 2, (96, 96, 96), depth=3)
    with pytest.raises(ValueError, match="multiple of 8"):
        build(1, 2, (96, 96, 90))
    with pytest.raises(ValueError, match="three axes"):
        build(1, 2, (96, 96))


def test_state_dict_round_trip(network):
    torch.manual_seed(5)
    other = MambaUNet(2, 3, channels=(8, 12, 16))
    other.load_state_dict(network.state_dict(), strict=True)
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(network(image), other(image))
