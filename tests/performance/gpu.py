"""Every table of docs/performance.md on one card, in under eight minutes, as text and as JSON.

    python tests/performance/gpu.py --json gpu.json
    python tests/performance/gpu.py --only steps,windows       # some of the tables, in all of the time
    python tests/performance/gpu.py --tiny --device cpu        # the same code on toy sizes: does it run?

Bare networks by batch with and without CUDA graphs, the sliding window beside MONAI under autograd and beside the
first build (one window at a time, computed twice, plain layers), attack steps over bare, the selective scan beside
mambapy and mamba_ssm (where installed), window attention beside MONAI's, the share of time the card works in the
README's job, and cases a minute for paper-size networks on a synthetic volume of BTCV's size. What takes turns is timed
in one run. A part that reaches its share of the time stops and says which rows it left out; what a part does not need
goes to the next. TF32 is off, but for ``--defaults``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_attention import attentions
from gpu_bench import TINY, Bench, Sizes, fits, gradient
from monai.inferers.utils import sliding_window_inference
from plain_layers import as_first_built
from scans import other_scans, scan_inputs, scanned
from torch import Tensor, nn

from robustvox.attacks import PGD, SA2, VAFA, Attack, CosPGD
from robustvox.datasets import open_dataset
from robustvox.models import SlidingWindow, load_checkpoint
from robustvox.models.cuda_graphs import CudaGraphs
from robustvox.models.mamba import selective_scan
from robustvox.models.mamba.kernel import auto_scan
from robustvox.models.precision import float32_switches, settle

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"


def bare(bench: Bench) -> None:
    part = bench.part("bare network, forward and input gradient, ms; with graphs the same as replays")
    for name, size in bench.sizes.networks:
        if bench.late(part, name):
            continue
        model, row = bench.network(name), {}
        for batch in bench.sizes.batches:
            images = bench.images(batch, 1, *bench.sizes.roi)
            if not fits(lambda: gradient(model, images)):  # noqa: B023
                break
            (row[f"batch {batch}"],) = bench.milliseconds(lambda: gradient(model, images))  # noqa: B023
            graphs = CudaGraphs(model)
            trial = graphs.measure(images)
            if trial is not None:
                row[f"graphs {batch}"] = trial.why
            if trial is not None and trial.used:
                (row[f"replay {batch}"],) = bench.milliseconds(lambda: gradient(graphs, images))  # noqa: B023
            graphs.drop()
            gc.collect()
        bench.add(part, network=f"{name} {size}", **row)


def windows(bench: Bench) -> None:
    part = bench.part("whole volume, forward and input gradient, ms")
    images = bench.images(1, 1, *bench.sizes.volume)
    for name in bench.sizes.windowed:
        if bench.late(part, name):
            continue
        bench.add(part, network=name, **windowed(bench, bench.network(name), images))
        gc.collect()


def windowed(bench: Bench, model: nn.Module, images: Tensor) -> dict[str, Any]:
    """One network in all ways that fit."""
    roi = bench.sizes.roi
    auto = SlidingWindow(model, roi, 0.5)
    first = SlidingWindow(as_first_built(model), roi, 0.5, 1, memory="recompute", cuda_graphs="off")
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "auto": auto,
        "auto, no graphs": SlidingWindow(model, roi, 0.5, cuda_graphs="off"),
        "recompute, auto": SlidingWindow(model, roi, 0.5, memory="recompute"),
        "recompute, 1": SlidingWindow(model, roi, 0.5, 1, memory="recompute"),
        "first built, 1": first,
        "MONAI, 4": lambda x: sliding_window_inference(x, roi, 4, model, overlap=0.5, mode="gaussian"),
    }
    for _ in range(3):  # the third gradient tries a graph
        fits(lambda: gradient(auto, images))
    works = {key: partial(gradient, way, images) for key, way in ways.items()}
    works = {key: work for key, work in works.items() if fits(work)}
    row: dict[str, Any] = dict.fromkeys(ways, "memory")
    row |= zip(works, bench.milliseconds(*works.values()), strict=True)
    row |= {f"GiB {key}": bench.peak_gib(work) for key, work in works.items()}
    row["how"] = {key: str(way.execution) for key, way in ways.items() if isinstance(way, SlidingWindow)}
    row["graphs"] = {count: trial.why for count, trial in auto.graphs.trials.items()}
    if {"auto", "first built, 1"} <= works.keys():
        row["times_first"] = round(row["first built, 1"] / row["auto"], 2)
    if {"auto", "MONAI, 4"} <= works.keys():
        row["over_monai"] = round(row["auto"] / row["MONAI, 4"], 2)
        reference = works["MONAI, 4"]()
        off = float((works["auto"]() - reference).norm() / reference.norm())
        row["gradient_off"] = f"{off:.0e}"
    return row


def steps(bench: Bench) -> None:
    part = bench.part(f"attack step over bare, batch 1, {bench.sizes.attack_steps} steps")
    count, images = bench.sizes.attack_steps, bench.images(1, 1, *bench.sizes.roi)
    labels = bench.labels(images)
    attacks: dict[str, Attack] = {
        "pgd": PGD(steps=count), "cospgd": CosPGD(steps=count), "vafa(32)": VAFA(steps=count),
        "vafa(8)": VAFA(steps=count, block_size=8), "sa2": SA2(steps=count),
    }  # fmt: skip
    for name in bench.sizes.stepped:
        if bench.late(part, name):
            continue
        model = bench.network(name)

        def plain(model: nn.Module = model) -> None:
            for _ in range(count):
                gradient(model, images, labels)
                bench.wait()

        works = [lambda attack=attack: attack(model, images, labels) for attack in attacks.values()]  # noqa: B023
        base, *taken = bench.milliseconds(plain, *works, repeats=3)
        ratios = {key: round(t / base, 3) for key, t in zip(attacks, taken, strict=True)}
        bench.add(part, network=name, bare_ms=round(base / count, 2), **ratios)


def scans(bench: Bench) -> None:
    part = bench.part("selective scan, forward and gradients of u, delta, B, C, ms")
    ways: dict[str, Callable[..., Tensor]] = {
        "auto": auto_scan,
        "torch": selective_scan,
        **other_scans(bench.device),
    }
    for length, inner in bench.sizes.scans:
        if bench.late(part, f"{length} x {inner}"):
            continue
        values, weights = scan_inputs(bench.device, length, inner)
        row: dict[str, Any] = {}
        exact = scanned(selective_scan, [v.double() for v in values], weights.double())
        for name, way in ways.items():
            if not fits(lambda: scanned(way, values, weights)):  # noqa: B023
                row[name] = "memory"
                continue
            (row[name],) = bench.milliseconds(lambda: scanned(way, values, weights))  # noqa: B023
            found = scanned(way, values, weights)
            errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
            row[f"error {name}"] = f"{max(errors):.0e}"
        bench.add(part, size=f"{length} x {inner}", **row)


def busy(bench: Bench) -> None:
    """README's job: the zoo's small UNETR on the phantom."""
    part = bench.part("share of the attack's time in which the card works, README's job")
    dataset = open_dataset("phantom")
    loaded = load_checkpoint(ZOO / "phantom" / "unetr.safetensors")
    network, roi = loaded.network.to(bench.device).eval(), loaded.card.roi_size
    volume = dataset.load(dataset.splits["validation"][0])
    images = torch.from_numpy(volume.image)[None].to(bench.device)
    labels = torch.from_numpy(volume.label).long()[None, None].to(bench.device)
    if bench.sizes is TINY:  # one window
        corner = (..., *(slice(0, side) for side in roi))
        images, labels = images[corner], labels[corner]
    attacks: dict[str, Attack] = {"pgd": PGD(steps=bench.sizes.steps), "vafa": VAFA(steps=bench.sizes.steps)}
    for (name, attack), graphs in itertools.product(attacks.items(), ("off", "auto")):
        if bench.late(part, name):
            continue
        predictor = SlidingWindow(network, roi, cuda_graphs=graphs)
        work = lambda attack=attack, predictor=predictor: attack(predictor, images, labels)  # noqa: E731
        (taken,) = bench.milliseconds(work)
        bench.add(
            part,
            attack=name,
            graphs=graphs,
            ms=taken,
            **worked(bench, work, taken),
            how=str(predictor.execution),
        )


def worked(bench: Bench, work: Callable[[], object], taken: float) -> dict[str, Any]:
    """For how much of its time a piece of work keeps the card at work, by the profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        bench.wait()
    averages = profile.key_averages()
    if bench.device.type != "cuda":
        return {"share": "no card", "operations": sum(event.count for event in averages)}
    # A kernel's time stands at the kernel and at the operator that launched it; counted is the kernel's.
    kernels = [event for event in averages if event.device_type == torch.autograd.DeviceType.CUDA]
    card = sum(event.self_device_time_total for event in kernels if not event.is_user_annotation) / 1e3
    launches = sum(event.count for event in averages if "Launch" in event.key)
    return {"card_ms": round(card, 1), "share": round(card / taken, 2), "launches": launches}


def cases(bench: Bench) -> None:
    part = bench.part("cases a minute, one volume, PGD with 20 steps, from the time of a few")
    images = bench.images(1, 1, *bench.sizes.volume)
    labels, few = bench.labels(images), 2
    for name in bench.sizes.cases:
        if bench.late(part, name):
            continue
        predictor = SlidingWindow(bench.network(name), bench.sizes.roi)
        attack = PGD(steps=few)
        for _ in range(2):  # the third gradient tries a graph
            attack(predictor, images, labels)
        bench.wait()
        start = time.perf_counter()
        attack(predictor, images, labels)
        bench.wait()
        seconds = (time.perf_counter() - start) * 20 / few
        bench.add(
            part,
            network=name,
            seconds_a_case=round(seconds, 2),
            cases_a_minute=round(60 / seconds, 1),
            how=str(predictor.execution),
        )


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "bare": (bare, 0.2),
    "windows": (windows, 0.25),
    "steps": (steps, 0.2),
    "scans": (scans, 0.1),
    "attention": (attentions, 0.05),
    "busy": (busy, 0.1),
    "cases": (cases, 0.1),
}
"""Tables by name, and the share of the time that each may take."""


def chosen(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"expected parts among {', '.join(PARTS)}, got {', '.join(unknown)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--defaults",
        action="store_true",
        help="leave PyTorch's own settings: TF32 in convolutions, as the design's figures were taken",
    )
    parser.add_argument("--minutes", type=float, default=Sizes.minutes, help="for all parts together")
    parser.add_argument(
        "--only", type=chosen, default=list(PARTS), metavar=",".join(PARTS), help="some parts"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu" and not options.tiny:
        parser.error("expected a GPU, found none; --tiny runs the same code on toy sizes")
    if not options.defaults:
        settle()
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    bench = Bench(device, TINY if options.tiny else Sizes())
    about = {
        "card": card,
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "tiny": options.tiny,
        "float32": float32_switches(),
    }
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    begin, due = time.perf_counter(), 0.0
    whole = sum(PARTS[name][1] for name in options.only)
    for name in options.only:
        part, share = PARTS[name]
        due += share / whole
        bench.deadline = begin + due * 60 * options.minutes
        try:
            part(bench)
        finally:  # what was measured stays, whatever happens
            if options.json is not None:
                options.json.write_text(json.dumps({**about, "tables": bench.tables}, indent=2) + "\n")


if __name__ == "__main__":
    main()
