"""What a network costs: parameters, and floating-point operations of one forward on one window."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FACTS = Path(__file__).resolve().parent / "facts.json"
SCAN_FLOPS = 9
"""Per token, channel and state: the convention of the Mamba papers (decay, input, recurrence, output)."""


@dataclass(frozen=True)
class Complexity:
    """Cost of a network.

    Args:
        parameters: number of trainable values.
        flops: floating-point operations of one forward on one window; a multiply-add counts as two. Convolutions,
            matrix products, attention and the selective scan; normalizations and activations are left out.
        scan_flops: share of the selective scan in them, zero for a network without one.
    """

    parameters: int
    flops: int
    scan_flops: int


def measure(network: Any, in_channels: int, roi_size: Sequence[int]) -> Complexity:
    """Count parameters and operations of a network without computing anything (meta device).

    Args:
        network: any ``nn.Module`` from ``(1, C, *roi_size)`` to logits; it is copied, not changed.
        in_channels: image channels ``C``.
        roi_size: window in voxels.

    Example:
        >>> from torch import nn
        >>> measure(nn.Conv3d(1, 2, 3, padding=1, bias=False), 1, (4, 4, 4))
        Complexity(parameters=54, flops=6912, scan_flops=0)
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    scanned = 0

    def count(module: Any, inputs: Any) -> None:
        nonlocal scanned
        tokens = inputs[0]
        rates = [p for name, p in module.named_parameters(recurse=False) if _is_decay(name)]
        scanned += SCAN_FLOPS * tokens.shape[0] * tokens.shape[1] * sum(p.numel() for p in rates)

    shadow = copy.deepcopy(network).eval().to("meta")
    for module in shadow.modules():
        if any(_is_decay(name) for name, _ in module.named_parameters(recurse=False)):
            module.register_forward_pre_hook(count)
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(torch.empty(1, in_channels, *roi_size, device="meta"))
    parameters = sum(p.numel() for p in network.parameters())
    return Complexity(parameters, counter.get_total_flops() + scanned, scanned)


def _is_decay(name: str) -> bool:
    return name.startswith("A_") and name.endswith("log")


@cache
def facts() -> Mapping[str, Mapping[str, Any]]:
    """Cost of every architecture of the registry in both sizes, as committed; needs no torch.

    ``facts()["unet"]["paper"]`` has ``parameters``, ``flops``, ``scan_flops``, ``roi_size``, ``num_classes``.
    Written by ``python docs/build_models.py``.
    """
    return json.loads(FACTS.read_text())
