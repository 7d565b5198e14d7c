"""Cost of one attack step over the bare forward and input gradient it cannot avoid.

    python tests/performance/attack_step.py --threads 2

Bare is one forward of MONAI's UNet in its paper size, the mean cross entropy and the gradient with respect
to the images. An attack of T steps costs T of these, its own work, and one closing forward; what is printed
is its time divided by T, over bare. One bare step runs after every step of the attack, through `on_step`, and
is taken off its time: a machine that gets busy slows both. On a shared machine prefer `--clock cpu`. Freed memory is
kept, as the command line does it, unless `--usual-memory` is given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import UNet

from robustvox.attacks import PGD, SA2, VAFA, VAFA2D, Attack, CosPGD
from robustvox.models import keep_freed_memory

ATTACKS: dict[str, tuple[type[Attack], dict[str, Any], float]] = {
    "PGD": (PGD, {}, 1.20),
    "CosPGD": (CosPGD, {}, 1.25),
    "VAFA": (VAFA, {}, 1.40),
    "VAFA2D": (VAFA2D, {}, 1.40),
    "SA2": (SA2, {}, 1.40),
    "SA2 32": (SA2, {"block_size": 32}, 1.40),
    "SA2 -ssim": (SA2, {"ssim_weight": 0.0}, 1.40),
}


def seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--usual-memory", action="store_true")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="NAME")
    args = parser.parse_args()

    if not args.usual_memory:
        keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    model = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=args.classes,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    model = model.eval().requires_grad_(False).to(device)
    images = torch.rand(1, 1, *[args.size] * 3, device=device)
    labels = torch.randint(0, args.classes, images.shape, device=device)

    def bare() -> None:
        variable = images.clone().requires_grad_()
        with torch.enable_grad():  # the closing evaluation of an attack runs without
            torch.autograd.grad(F.cross_entropy(model(variable), labels[:, 0]), variable)

    attacks = {name: ATTACKS[name][0](steps=args.steps, **ATTACKS[name][1]) for name in args.only}
    bare()
    times: dict[str, list[float]] = {name: [] for name in attacks}
    ratios: dict[str, list[float]] = {name: [] for name in attacks}
    base: list[float] = []
    for _ in range(args.repeats):
        for name, attack in attacks.items():
            between: list[float] = []
            total = seconds(
                lambda attack=attack, between=between: attack(
                    model, images, labels, on_step=lambda _: between.append(seconds(bare, device, clock))
                ),
                device,
                clock,
            )
            times[name].append((total - sum(between)) / args.steps)
            ratios[name].append(times[name][-1] / statistics.mean(between))
            base += between

    where = f"{args.threads} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    where += f", {args.clock} time"
    print(f"UNet {args.size}^3, K = {args.classes}, {args.steps} steps, {args.repeats} repeats, {where}")
    print(f"{'bare':10s}{statistics.median(base) * 1e3:9.0f} ms")
    for name in attacks:
        spread = f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}"
        print(
            f"{name:10s}{statistics.median(times[name]) * 1e3:9.0f} ms/step"
            f"   ratio {statistics.median(ratios[name]):.3f} ({spread}), target {ATTACKS[name][2]:.2f}"
        )


if __name__ == "__main__":
    main()
