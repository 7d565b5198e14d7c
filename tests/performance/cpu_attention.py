"""A window of swin_unetr in paper size on a CPU: MONAI's attention, with and without checkpoints, beside the fused one.

OMP_NUM_THREADS=1 python tests/performance/cpu_attention.py [--side 64] [--repeats 5]

Forward and input gradient, batch 1; the three take turns, and each prints its median and its ratio to the last.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, WindowAttention
from torch import nn

from robustvox.models import build_model
from robustvox.models.swin_attention import FusedWindowAttention

WAYS = {
    "MONAI, checkpoints": (WindowAttention, True),
    "MONAI": (WindowAttention, False),
    "fused": (FusedWindowAttention, False),
}


def prepare(network: nn.Module, attention: type[WindowAttention], checkpoint: bool) -> None:
    for module in network.modules():
        if isinstance(module, WindowAttention):
            module.__class__ = attention
        elif isinstance(module, SwinTransformerBlock):
            module.use_checkpoint = checkpoint


def seconds(network: nn.Module, images: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.autograd.grad(network(images).square().mean(), images)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    roi = (options.side,) * 3
    network = (
        build_model("swin_unetr", in_channels=1, num_classes=14, roi_size=roi).eval().requires_grad_(False)
    )
    images = torch.rand(1, 1, *roi, requires_grad=True)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.repeats + 1):
        for name, way in WAYS.items():
            prepare(network, *way)
            taken[name].append(seconds(network, images))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    for name, median in medians.items():
        print(f"{name:20s} {median:7.2f} s, {median / medians['fused']:.2f} times the fused")


if __name__ == "__main__":
    main()
