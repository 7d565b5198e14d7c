"""Batch-1 windows on a CPU: the registry's networks with and without FastConv3d, side by side.

OMP_NUM_THREADS=1 python tests/performance/cpu_convolutions.py
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from robustvox.models import MODELS, build_model
from robustvox.models.cpu import FastConv3d

ROI, REPEATS = (48, 64, 48), 5


def seconds(network: nn.Module, images: torch.Tensor) -> float:
    start = time.process_time()
    torch.autograd.grad(network(images).square().mean(), images)
    return time.process_time() - start


def swap(network: nn.Module, old: type, new: type) -> None:
    for module in network.modules():
        if type(module) is old:
            module.__class__ = new


def main() -> None:
    for name in MODELS:
        network = (
            build_model(name, in_channels=1, num_classes=3, roi_size=ROI, size="small")
            .eval()
            .requires_grad_(False)
        )
        images = torch.rand(1, 1, *ROI, requires_grad=True)
        ratios = []
        for _ in range(REPEATS):
            fast = seconds(network, images)
            swap(network, FastConv3d, nn.Conv3d)
            ratios.append(seconds(network, images) / fast)
            swap(network, nn.Conv3d, FastConv3d)
        print(f"{name:12s} plain / fast = {statistics.median(ratios[1:]):.2f}")


if __name__ == "__main__":
    main()
