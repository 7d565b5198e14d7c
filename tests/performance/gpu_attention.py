"""Window attention of swin_unetr in paper size, ours beside MONAI's layer: a part of ``gpu.py``."""

from __future__ import annotations

from typing import Any

import torch
from gpu_bench import TINY, Bench, fits, gradient
from monai.networks.nets.swin_unetr import WindowAttention
from plain_layers import ATTENTION, plain
from torch import Tensor, nn

from robustvox.models.fast import with_fast_layers

STAGES = ((343, 48, 3), (64, 96, 6), (8, 192, 12))
"""Windows of 7^3 tokens of a volume of 96^3, channels and heads."""


class Masked(nn.Module):
    """The layer with the mask of its shifted windows."""

    def __init__(self, layer: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.mask)


def attentions(bench: Bench) -> None:
    part = bench.part("window attention of shifted windows, forward and input gradient, ms")
    side, volumes = ((3, 3, 2), 1) if bench.sizes is TINY else ((7, 7, 7), 4)
    for places, channels, heads in STAGES[-1:] if bench.sizes is TINY else STAGES:
        if bench.late(part, f"{places} x {channels}"):
            continue
        torch.manual_seed(0)
        layer = WindowAttention(channels, heads, side, qkv_bias=True).eval().requires_grad_(False)
        tokens = layer.relative_position_index.shape[0]
        mask = (torch.rand(places, tokens, tokens) < 0.5).float() * -100
        ours = Masked(with_fast_layers(layer), mask).to(bench.device)
        ways = {"ours": ours, "MONAI": plain(ours, ATTENTION)}
        x = torch.randn(volumes * places, tokens, channels).to(bench.device)
        works = {name: lambda way=way: gradient(way, x) for name, way in ways.items()}  # noqa: B023
        works = {name: work for name, work in works.items() if fits(work)}
        row: dict[str, Any] = dict.fromkeys(ways, "memory")
        row |= zip(works, bench.milliseconds(*works.values()), strict=True)
        row |= {f"GiB {name}": bench.peak_gib(work) for name, work in works.items()}
        if len(works) == 2:
            row["over_monai"] = round(row["ours"] / row["MONAI"], 2)
            off = works["ours"]() - works["MONAI"]()
            row["gradient_off"] = f"{float(off.norm() / works['MONAI']().norm()):.0e}"
        bench.add(part, windows=f"{volumes * places} of {tokens}", channels=channels, **row)
