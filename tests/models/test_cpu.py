"""Norms whose input gradients are right, whatever layout the gradient comes in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvox.models.cpu import with_contiguous_gradients


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(8), nn.BatchNorm3d(8).eval()])
def test_a_norm_before_tokens_has_the_gradient_of_its_definition(norm):
    """As in VISTA3D's click head: what follows the norm flattens and permutes it."""
    weight = torch.randn(27, 8, dtype=torch.float64)
    network = with_contiguous_gradients(nn.Sequential(norm.double()))

    def tokens(x):
        return network(x).flatten(2).permute(0, 2, 1) * weight

    x = torch.randn(1, 8, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tokens, (x,))


def test_it_is_put_on_once_and_changes_no_value():
    network = nn.Sequential(nn.Conv3d(1, 8, 3), nn.InstanceNorm3d(8))
    x = torch.rand(1, 1, 6, 6, 6)
    before = network(x)
    with_contiguous_gradients(with_contiguous_gradients(network))
    assert torch.equal(network(x), before)
    assert len(network[1]._forward_hooks) == 1
