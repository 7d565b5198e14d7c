"""Fused window attention against MONAI's own layer, in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR, WindowAttention, compute_mask

from robustvox.models import build_model
from robustvox.models.fast import with_fast_layers
from robustvox.models.swin_attention import FusedWindowAttention

SIDES = {2: (12, 12), 3: (6, 5, 5)}
"""Windows of more tokens than the minimum."""


def layer(rank, heads=2, channels=8):
    torch.manual_seed(rank)
    made = WindowAttention(channels, heads, SIDES[rank], qkv_bias=True).double().eval().requires_grad_(False)
    torch.nn.init.normal_(made.relative_position_bias_table)
    return made


def mask_of(rank):
    """Of a volume of two windows per axis, shifted by two."""
    side = SIDES[rank]
    return compute_mask([2 * n for n in side], side, [2] * rank, torch.device("cpu")).double()


def fused(network):
    return with_fast_layers(copy.deepcopy(network))


def values_and_gradient(network, x, *rest):
    x = x.clone().requires_grad_(True)
    values = network(x, *rest)
    (gradient,) = torch.autograd.grad(
        (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum(), x
    )
    return values.detach(), gradient


@pytest.mark.parametrize("rank", SIDES)
@pytest.mark.parametrize("volumes", [1, 3])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_input_gradients_are_monais(rank, volumes, shifted):
    plain, mask = layer(rank), mask_of(rank) if shifted else None
    n = plain.relative_position_index.shape[0]
    x = torch.randn(volumes * 2**rank, n, 8, dtype=torch.float64)
    new = fused(plain)
    assert type(new) is FusedWindowAttention
    for ours, theirs in zip(
        values_and_gradient(new, x, mask), values_and_gradient(plain, x, mask), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_cut_window_takes_the_corner_of_the_bias():
    """MONAI's windows shrink with a small volume and keep their table."""
    plain = layer(2)
    x = torch.randn(3, 130, 8, dtype=torch.float64)
    torch.testing.assert_close(fused(plain)(x, None), plain(x, None), rtol=1e-10, atol=1e-12)


def test_it_takes_less_memory_than_the_matrix_of_weights():
    """What a graph keeps has no axis of tokens twice; MONAI's keeps the weights of every window and head."""

    def kept(network):
        largest = 0

        def measure(tensor):
            nonlocal largest
            largest = max(largest, tensor.numel())
            return tensor

        x = torch.randn(8, 150, 8, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(measure, lambda tensor: tensor):
            network(x, None)
        return largest

    plain = layer(3)
    assert kept(plain) == 8 * 2 * 150 * 150
    assert kept(fused(plain)) == 2 * 150 * 150  # the bias, once for all windows


@pytest.mark.parametrize("rank", SIDES)
def test_the_weights_are_trained_by_monais_layer(rank):
    """Also the bias, of which the fused kernel has no gradient."""
    plain = layer(rank).requires_grad_(True)
    new = fused(plain)
    x = torch.randn(2**rank, plain.relative_position_index.shape[0], 8, dtype=torch.float64)
    for network in (plain, new):
        network(x, mask_of(rank)).square().sum().backward()
    for (name, theirs), ours in zip(plain.named_parameters(), new.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
        assert theirs.grad.abs().sum() > 0, name


def test_short_windows_and_dropout_are_monais_to_the_bit():
    torch.manual_seed(0)
    short = WindowAttention(8, 2, (4, 4, 4)).eval().requires_grad_(False)
    x = torch.randn(2, 64, 8)
    assert torch.equal(fused(short)(x, None), short(x, None))
    dropped = WindowAttention(8, 2, (6, 5, 5), attn_drop=0.5).train().requires_grad_(False)
    x = torch.randn(2, 150, 8)
    torch.manual_seed(1)
    theirs = dropped(x, None)
    torch.manual_seed(1)
    assert torch.equal(fused(dropped)(x, None), theirs)


def test_a_network_of_the_registry_has_it_and_its_weights_are_monais():
    shape = (64, 64, 64)
    sizes = dict(feature_size=12, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2))
    network = build_model("swin_unetr", in_channels=1, num_classes=2, roi_size=shape, **sizes)
    attentions = [module for module in network.modules() if isinstance(module, WindowAttention)]
    assert attentions
    assert {type(module) for module in attentions} == {FusedWindowAttention}
    monai = SwinUNETR(in_channels=1, out_channels=2, use_checkpoint=True, **sizes)
    monai.load_state_dict(network.state_dict())
    x = torch.rand(1, 1, *shape)
    with torch.no_grad():
        ours, theirs = (made.eval()(x) for made in (network, monai))
    # float32: 5e-7 of the norm was measured
    assert (ours - theirs).norm() <= 5e-6 * theirs.norm()


def test_it_is_pickled_as_it_is():
    x = torch.randn(2, 150, 8, dtype=torch.float64)
    new = fused(layer(3))
    assert torch.equal(pickle.loads(pickle.dumps(new))(x, None), new(x, None))
