"""Whole-volume forward and gradient: graphs kept, graphs recomputed, and MONAI under plain autograd.

    python tests/performance/window_memory.py --threads 2

The README's job: the zoo's small UNETR on one phantom volume, windows of the checkpoint, overlap 0.5. The ways
take turns in one run, so a machine that gets busy slows all of them; what is printed are medians and, per round,
the ratio to recomputing four windows at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from robustvox.datasets import open_dataset
from robustvox.models import SlidingWindow, keep_freed_memory, load_checkpoint

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo" / "phantom"
BASE = "recompute, 4"


def step(predictor: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    variable = images.clone().requires_grad_()
    return torch.autograd.grad(predictor(variable).square().mean(), variable)[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="unetr")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--usual-memory", action="store_true", help="freed memory goes back to the system")
    options = parser.parse_args()
    if not options.usual_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    dataset = open_dataset("phantom")
    loaded = load_checkpoint(ZOO / f"{options.model}.safetensors")
    network, roi = loaded.network.to(options.device).eval().requires_grad_(False), loaded.card.roi_size
    volume = dataset.load(dataset.splits["validation"][0])
    images = torch.from_numpy(volume.image)[None].to(options.device)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        f"{memory}, {size}": SlidingWindow(network, roi, 0.5, size, memory=memory)
        for size in options.batches
        for memory in ("keep", "recompute")
    }
    ways["auto"] = auto = SlidingWindow(network, roi, 0.5)
    ways["MONAI + autograd, 4"] = lambda x: sliding_window_inference(
        x, roi, 4, network, overlap=0.5, mode="gaussian"
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    gradients = {name: step(way, images) for name, way in ways.items()}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            step(way, images).sum().item()
            times[name].append(time.perf_counter() - start)
    windows = len(auto.windows(1, images.shape[2:]))
    print(
        f"{options.model} small, {tuple(images.shape[2:])}, roi {roi}, {windows} windows, {options.device}, "
        f"{torch.get_num_threads()} threads, {options.repeats} rounds; auto was {auto.execution}"
    )
    base = gradients[BASE] if BASE in ways else gradients["auto"]
    for name, taken in times.items():
        error = ((gradients[name] - base).norm() / base.norm()).item()
        ratios = [t / b for t, b in zip(taken, times.get(BASE, times["auto"]), strict=True)]
        print(
            f"{name:22}{statistics.median(taken) * 1e3:9.0f} ms   {statistics.median(ratios):.3f} of {BASE} "
            f"({min(ratios):.2f} to {max(ratios):.2f})   gradient differs by {error:.0e}"
        )


if __name__ == "__main__":
    main()
