"""What the layers of a window read and write, counted without a card: how much of it the own instance norms save.

python tests/performance/traffic.py [--size paper] [--side 96] [--models unetr swin_unetr]

Forward and input gradient on PyTorch's meta device. Counted are the bytes of all inputs and outputs of every operator
that is no view, and the operators: for a network bound by memory, as most are on a GPU, time goes with them.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustvox.models import MODELS, build_model
from robustvox.models.norms import OwnInstanceNorm3d

UNTOUCHED = {
    "aten.as_strided.default",
    "aten._unsafe_view.default",
    "aten.detach.default",
    "aten.empty_like.default",
    "aten.new_empty_strided.default",
}
"""Operators that move nothing and whose schema does not say so."""


class Traffic(TorchDispatchMode):
    """Bytes and calls by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not func.is_view and str(func) not in UNTOUCHED:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
            self.bytes[str(func)] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls[str(func)] += 1
        return made


def traffic(network: nn.Module, side: int) -> Traffic:
    images = torch.empty(1, 1, side, side, side, device="meta", requires_grad=True)
    with Traffic() as counted:
        torch.autograd.grad(network(images).sum(), images)
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("paper", "small"), default="paper")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["unet", "unetr", "swin_unetr"])
    options = parser.parse_args()
    print(f"{'network':12} {'GB':>7} {'without':>8} {'saved':>6} {'operators':>10} {'without':>8}")
    for name in options.models:
        network = build_model(
            name, in_channels=1, num_classes=14, roi_size=(options.side,) * 3, size=options.size
        )
        network = network.eval().requires_grad_(False).to("meta")
        own = traffic(network, options.side)
        for module in network.modules():
            if type(module) is OwnInstanceNorm3d:
                module.__class__ = nn.InstanceNorm3d
        plain = traffic(network, options.side)
        mine, theirs = own.bytes.total() / 1e9, plain.bytes.total() / 1e9
        print(
            f"{name:12} {mine:7.2f} {theirs:8.2f} {1 - mine / theirs:6.0%} "
            f"{own.calls.total():10} {plain.calls.total():8}"
        )


if __name__ == "__main__":
    main()
