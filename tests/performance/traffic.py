"""What the layers of a window read and write, counted without a card: how much of it the own instance norms save.

python tests/performance/traffic.py [--size paper] [--side 96] [--models unetr swin_unetr] [--rounds 0]

Forward and input gradient on PyTorch's meta device. Counted are the bytes of all inputs and outputs of every operator
that is no view, and the operators: for a network bound by memory, as most are on a GPU, time goes with them. "First
built" runs the transformer blocks of Swin networks twice besides. Fused kernels do not run on the meta device, so that
window attention counts here as MONAI's. With rounds, the network and the one with plain norms also take turns on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter

import torch
from plain_layers import NORMS, as_first_built, plain
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustvox.models import MODELS, build_model

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


def seconds(network: nn.Module, images: Tensor) -> float:
    start = time.process_time()
    torch.autograd.grad(network(images).square().mean(), images)
    return time.process_time() - start


def ratio(networks: tuple[nn.Module, nn.Module], side: int, rounds: int) -> float:
    """Processor time of the second over the first: the median over rounds in which they take turns."""
    images = torch.rand(1, 1, side, side, side, requires_grad=True)
    times = [[seconds(network, images) for network in networks] for _ in range(rounds + 1)]
    return statistics.median(second / first for first, second in times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("paper", "small"), default="paper")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["unet", "unetr", "swin_unetr"])
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    print(
        f"{'network':12} {'GB':>7} {'plain norms':>12} {'first built':>12} {'operators':>10} {'plain norms':>12}"
    )
    for name in options.models:
        network = build_model(
            name, in_channels=1, num_classes=14, roi_size=(options.side,) * 3, size=options.size
        )
        network = network.eval().requires_grad_(False)
        ways = network, plain(network, NORMS), as_first_built(network)
        timed = ratio(ways[:2], options.side, options.rounds) if options.rounds else None
        own, norms, first = (traffic(way.to("meta"), options.side) for way in ways)
        gigabytes = [way.bytes.total() / 1e9 for way in (own, norms, first)]
        print(
            f"{name:12} {gigabytes[0]:7.2f} {gigabytes[1]:12.2f} {gigabytes[2]:12.2f} "
            f"{own.calls.total():10} {norms.calls.total():12}" + (f" {timed:6.2f}" if timed else "")
        )


if __name__ == "__main__":
    main()
