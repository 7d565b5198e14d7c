"""The layers of a network as the faster ones that compute the same."""

from __future__ import annotations

import sys

from torch import nn

from .cpu import with_fast_convolutions
from .exchange import exchange
from .norms import with_own_norms


def with_fast_layers(network: nn.Module) -> nn.Module:
    """Convolutions, instance norms and window attention of a network as faster layers, in place.

    Weights and names stay; results stay to the bit, those of :class:`.swin_attention.FusedWindowAttention` to
    rounding. See :class:`.cpu.FastConv3d` and :class:`.norms.OwnInstanceNorm3d`.
    """
    return _with_fast_attention(with_own_norms(with_fast_convolutions(network)))


def _with_fast_attention(network: nn.Module) -> nn.Module:
    monai_swin = sys.modules.get("monai.networks.nets.swin_unetr")
    if monai_swin is None:  # no network was made of it, and there is no need to import it
        return network
    from .swin_attention import FusedWindowAttention

    return exchange(network, {monai_swin.WindowAttention: FusedWindowAttention})
