"""One attack on small cases of one window, together and one by one, and the whole run after loading.

    python tests/performance/cases_together.py --data-root DIR --json together.json
    python tests/performance/cases_together.py --data-root DIR --device cpu --cases 3 --models unet --steps 2

Per network: seconds to attack all cases in batches, seconds of one case alone, the gain per case, and on a GPU the
share of the batch's time in which the card works (kernels by the profiler over wall clock without it). Then the run as
the command does it, scores and records included, from loaded models to the last record. Volumes of both ways are
compared with each other through what the network predicts on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch

from robustvox.benchmark.craft.named import predict
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.compute import Failure
from robustvox.benchmark.harness.desk import OwnDesk, SideDesk
from robustvox.benchmark.harness.execute import execute
from robustvox.benchmark.plan.build import build_plan
from robustvox.benchmark.plan.plan import Job, Plan
from robustvox.benchmark.records import RecordStore
from robustvox.benchmark.specs.crossing import Computing, Crossing
from robustvox.models import ZOO


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of the second time."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    return time.perf_counter() - start


def batches(bench: Bench, jobs: list[Job]) -> list[list[Job]]:
    room = bench.room(jobs[0])
    return [jobs[at : at + room] for at in range(0, len(jobs), room)]


def by_network(plan: Plan) -> list[dict[str, object]]:
    """A row per attacked model."""
    rows: list[dict[str, object]] = []
    for surrogate in plan.surrogates:
        bench = Bench(plan, case_batch="auto" if plan.device.startswith("cuda") else len(plan.cases))
        bench.hold(plan.cases)
        jobs = [Job(case, surrogate, plan.attacks[0], (surrogate,)) for case in plan.cases]
        parts = batches(bench, jobs)

        def together(bench: Bench = bench, parts: list[list[Job]] = parts) -> list[object]:
            return [found for part in parts for found in bench.craft_all(part)]

        all_s, alone_s = (
            timed(together, plan.device),
            timed(lambda bench=bench, job=jobs[0]: bench.craft_all([job]), plan.device),
        )
        row: dict[str, object] = {
            "network": surrogate.name,
            "batch": max(map(len, parts)),
            "together_s": round(all_s, 2),
            "one_alone_s": round(alone_s, 2),
            "gain": round(alone_s * len(jobs) / all_s, 2),
        }
        if plan.device.startswith("cuda"):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                together()
                torch.cuda.synchronize()
            worked = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
            row["card_share"] = round(worked / all_s, 2)
        rows.append({**row, "same_voxels": agreement(bench, jobs[0], together()[0])})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def agreement(bench: Bench, job: Job, found: object) -> float:
    """Share of voxels on which the network says the same of the volume from the batch and of the one made alone."""
    (alone,) = bench.craft_all([job])
    if isinstance(found, Failure) or isinstance(alone, Failure) or job.surrogate is None:
        raise SystemExit(f"an attack failed: {found} {alone}")
    one, two = (predict(job.surrogate, crafted.images) for crafted in (found, alone))  # type: ignore[union-attr]
    return round(float((one == two).mean()), 5)


def whole(plan: Plan) -> dict[str, object]:
    """The run from loaded models to the last record."""
    card = plan.device.startswith("cuda")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(SideDesk() if card else OwnDesk()) as desk,
        RecordStore(Path(folder)) as store,
    ):
        bench = Bench(plan, case_batch="auto", desk=desk)
        start = time.perf_counter()
        events = list(execute(bench, store, store.provenance({"protocol": plan.protocol.name})))
        seconds = time.perf_counter() - start
    failed = sum(event.failed for event in events)
    return {"jobs": len(events), "failed": failed, "seconds_after_loading": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted(file.stem for file in (ZOO / "hippocampus").glob("*.safetensors") if "." not in file.stem)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cases", default="12")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=names)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    crossing = Crossing(
        models=tuple(asked.models),
        attacks=(f"pgd:steps={asked.steps}",),
        dataset="hippocampus",
        data_root=asked.data_root,
        cases=asked.cases,
    )
    start = time.perf_counter()
    plan = build_plan(crossing, Computing(device=asked.device))
    print(
        f"{len(plan.surrogates)} models loaded in {time.perf_counter() - start:.1f} s on {plan.device}",
        flush=True,
    )
    found = {"device": plan.device, "rows": by_network(plan), "run": whole(plan)}
    print(found["run"])
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
