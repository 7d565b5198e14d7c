"""Instance norms that are no view, against PyTorch's own."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustvox.models import MODELS, build_model
from robustvox.models.exchange import exchange
from robustvox.models.norms import OwnInstanceNorm3d, with_own_norms

CHANGED_VIEW = "aten.new_empty_strided"
"""What autograd asks for on the way back, once for each view that was changed in place."""

IN_PLACE = {"unetr", "swin_unetr", "umamba_bot", "umamba_enc", "segmamba", "lma_unet", "mamba_unet"}
"""Networks with an activation in place behind an instance norm."""


class Asked(TorchDispatchMode):
    """How often each operator was called."""

    def __init__(self):
        super().__init__()
        self.times = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def plainly(network):
    """The same weights with PyTorch's norms."""
    return exchange(copy.deepcopy(network), {OwnInstanceNorm3d: nn.InstanceNorm3d})


def values_and_gradients(network, x):
    x = x.clone().requires_grad_(True)
    values = network(x)
    return values.detach(), *torch.autograd.grad(values.square().mean(), [x, *network.parameters()])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_pytorchs_to_the_bit_in_training_and_out_of_it(inplace, running, batch):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv3d(1, 4, 3),
        nn.InstanceNorm3d(4, affine=True, track_running_stats=running),
        nn.LeakyReLU(0.1, inplace=inplace),
        nn.Conv3d(4, 2, 3),
    )
    own = with_own_norms(copy.deepcopy(plain))
    x = torch.randn(batch, 1, 7, 6, 8)
    for training in (True, False):
        for ours, theirs in zip(
            values_and_gradients(own.train(training), x),
            values_and_gradients(plain.train(training), x),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(own.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_gradient_is_that_of_the_definition():
    network = with_own_norms(nn.Sequential(nn.InstanceNorm3d(2).double(), nn.LeakyReLU(0.2, inplace=True)))
    x = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))


@pytest.mark.parametrize("name", MODELS)
def test_no_network_changes_a_view_and_no_bit_of_a_gradient_moves(name):
    network = build_model(name, in_channels=1, num_classes=3, roi_size=(32, 32, 32), size="small").eval()
    assert not any(type(module) is nn.InstanceNorm3d for module in network.modules())
    network.requires_grad_(False)
    plain = plainly(network)
    x = torch.rand(2, 1, 32, 32, 32, requires_grad=True)
    changed, gradients = {}, {}
    for way, made in (("own", network), ("plain", plain)):
        with Asked() as asked:
            (gradients[way],) = torch.autograd.grad(made(x).square().mean(), x)
        changed[way] = asked.times[CHANGED_VIEW]
    assert torch.equal(gradients["own"], gradients["plain"])
    assert changed["own"] == 0
    assert (changed["plain"] > 0) == (name in IN_PLACE)


def test_a_graph_keeps_no_more():
    def kept(network):
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            values = network(torch.rand(1, 4, 9, 9, 9, requires_grad=True))
        return sum(storages.values()), values

    plain = nn.Sequential(nn.InstanceNorm3d(4), nn.LeakyReLU(inplace=True), nn.InstanceNorm3d(4))
    assert kept(with_own_norms(copy.deepcopy(plain)))[0] == kept(plain)[0]


def test_its_weights_names_and_pickle_are_pytorchs():
    plain = nn.Sequential(nn.InstanceNorm3d(3, affine=True))
    own = with_own_norms(copy.deepcopy(plain))
    assert own.state_dict().keys() == plain.state_dict().keys()
    x = torch.rand(1, 3, 4, 4, 4)
    assert torch.equal(pickle.loads(pickle.dumps(own))(x), plain(x))
    assert type(with_own_norms(own)[0]) is OwnInstanceNorm3d
