"""A network with the layers it was first built with, to time the faster ones beside."""

from __future__ import annotations

import copy

from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention
from torch import nn

from robustvox.models.cpu import FastConv3d
from robustvox.models.exchange import exchange
from robustvox.models.norms import OwnInstanceNorm3d
from robustvox.models.swin_attention import FusedWindowAttention

NORMS: dict[type[nn.Module], type[nn.Module]] = {OwnInstanceNorm3d: nn.InstanceNorm3d}
ATTENTION: dict[type[nn.Module], type[nn.Module]] = {FusedWindowAttention: WindowAttention}
ALL = {FastConv3d: nn.Conv3d, **NORMS, **ATTENTION}


def plain(network: nn.Module, layers: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    """A copy with its fast layers as the ones they stand for; the weights are shared."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return exchange(copy.deepcopy(network, shared), layers)


def as_first_built(network: nn.Module) -> nn.Module:
    """All layers plain, and transformer blocks of Swin networks run twice, as the paper's code has it."""
    network = plain(network, ALL)
    for module in network.modules():
        if isinstance(module, SwinTransformerBlock):
            module.use_checkpoint = True
    return network
