"""A forward and gradient on a CPU with an allocator that keeps what is freed, and with the usual one: time and memory.

    python tests/performance/host_memory.py [--models unet swin_unetr] [--side 96] [--rounds 3] [--threads 2]

Each way runs in a process of its own; processes take turns. Printed are medians of the time and of the peak memory, and
whether the gradients are equal to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from robustvox.models import build_model, keep_freed_memory

PASSES = 4
"""Of which the first is not counted."""


def measure(name: str, side: int, threads: int, keep: bool) -> None:
    """Run in a process of its own."""
    if keep and not keep_freed_memory():
        raise SystemExit("expected Linux with glibc and no MALLOC_ variables in the environment")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = build_model(name, in_channels=1, num_classes=14, roi_size=(side,) * 3)
    network = network.eval().requires_grad_(False)
    images = torch.rand(1, 1, side, side, side, requires_grad=True)
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad(network(images).square().mean(), images)
        seconds.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "seconds": statistics.median(seconds[1:]),
                "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "gradient": hashlib.sha256(gradient.numpy().tobytes()).hexdigest(),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["unet", "unetr", "swin_unetr"])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=("keep", "usual"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.models[0], options.side, options.threads, options.measure == "keep")
        return
    for name in options.models:
        found: dict[str, list[dict]] = {"keep": [], "usual": []}
        for _ in range(options.rounds):
            for way, results in found.items():
                command = [sys.executable, __file__, "--measure", way, "--models", name]
                command += ["--side", str(options.side), "--threads", str(options.threads)]
                results.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
        kept, usual = (
            {key: statistics.median(result[key] for result in results) for key in ("seconds", "gib")}
            for results in found.values()
        )
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["usual"], found["keep"], strict=True)]
        equal = len({result["gradient"] for results in found.values() for result in results}) == 1
        print(
            f"{name:12} {usual['seconds']:6.2f} s {usual['gib']:5.2f} GiB   kept {kept['seconds']:6.2f} s "
            f"{kept['gib']:5.2f} GiB   {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to "
            f"{max(ratios):.2f})   gradients {'equal' if equal else 'differ'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
