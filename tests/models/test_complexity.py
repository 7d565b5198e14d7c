"""Counted cost against closed forms, and the committed facts against the networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvox.models import CATALOG, MODELS, build_model
from robustvox.models.complexity import SCAN_FLOPS, facts, measure
from robustvox.models.mamba.block import Mamba


class Tokens(nn.Module):
    """One Mamba layer over the voxels of a volume with ``d`` channels."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mamba = Mamba(d, d_state=4, d_conv=3, expand=2, dt_rank=1)

    def forward(self, x):
        return self.mamba(x.flatten(2).transpose(1, 2))


def test_a_mamba_layer_counts_its_projections_its_convolution_and_its_scan():
    d, e, n, rank, taps, tokens = 6, 12, 4, 1, 3, 2 * 3 * 5
    cost = measure(Tokens(d), d, (2, 3, 5))
    scan = SCAN_FLOPS * tokens * e * n
    products = 2 * tokens * (d * 2 * e + e * (rank + 2 * n) + rank * e + e * d)
    # The causal convolution is padded on both sides and cut: taps - 1 positions more than tokens.
    convolution = 2 * (tokens + taps - 1) * taps * e
    assert cost.scan_flops == scan
    assert cost.flops == scan + products + convolution
    assert cost.parameters == sum(p.numel() for p in Tokens(d).parameters())


def test_a_strided_convolution_counts_its_outputs_only():
    cost = measure(nn.Conv3d(2, 5, 3, stride=2, padding=1), 2, (8, 8, 8))
    assert (cost.parameters, cost.flops, cost.scan_flops) == (2 * 5 * 27 + 5, 2 * 4**3 * 27 * 2 * 5, 0)


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Dropout()).train()
    measure(network, 1, (2, 2, 2))
    assert network.training
    assert next(network.parameters()).device == torch.device("cpu")
    assert not network[0]._forward_pre_hooks


def committed_equals_measured(name: str, size: str) -> None:
    told = facts()[name][size]
    network = build_model(
        name, in_channels=1, num_classes=told["num_classes"], roi_size=told["roi_size"], size=size
    )
    cost = measure(network, 1, told["roi_size"])
    assert (cost.parameters, cost.flops, cost.scan_flops) == (
        told["parameters"],
        told["flops"],
        told["scan_flops"],
    ), "run `python docs/build_models.py --measure`"


@pytest.mark.parametrize("name", MODELS)
def test_committed_facts_of_small_networks(name):
    committed_equals_measured(name, "small")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_committed_facts_of_published_networks(name):
    committed_equals_measured(name, "paper")


def test_every_architecture_has_facts_and_a_source():
    assert list(facts()) == list(MODELS)
    assert all(entry.source for entry in CATALOG.values())
