"""What a job costs beside its computation: the same jobs here, in two processes, and through a Dask scheduler.

    python tests/performance/overhead.py [--cases 10] [--attacks 20] [--repeats 3]

The network is one convolution, the attack one subtraction, volumes have 16^3 voxels: what is left is reading, scoring,
writing the record, and for workers the way there and back. Prints per mode the wall seconds from the first job to the
last, per job, and the difference to the computation alone. Start-up is not in it: workers have answered before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.crews import Crew
from robustvox.benchmark.harness.execute import Elsewhere, execute
from robustvox.benchmark.harness.jobs import compute
from robustvox.benchmark.harness.workers import assign
from robustvox.benchmark.plan.build import build_plan
from robustvox.benchmark.records import RecordStore
from robustvox.benchmark.specs.crossing import Computing, Crossing, Writing
from robustvox.benchmark.specs.requests import RunRequest

LIGHT = """
from dataclasses import dataclass
import torch
from robustvox.attacks import Attack

def net(num_classes):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, num_classes, 3, padding=1)

@dataclass(frozen=True, kw_only=True)
class Nudge(Attack):
    amount: float = 4 / 255

    def perturb(self, task):
        return (task.images - self.amount).clamp(0, 1)
"""


def write_toy(folder: Path, cases: int) -> None:
    """A list of small volumes."""
    rng = np.random.default_rng(0)
    lines = ["image,label"]
    folder.mkdir()
    for i in range(cases):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:10, 4:10, 4:10] = 1
        image = rng.normal(100.0, 5.0, label.shape).astype(np.float32) + 60.0 * label
        for part, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{part}_{i:03d}.nii.gz")
        lines.append(f"image_{i:03d}.nii.gz,label_{i:03d}.nii.gz")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")


def request_of(root: Path, attacks: int, **computing: object) -> RunRequest:
    crossing = Crossing(
        models=("light:net",),
        attacks=tuple(f"light:Nudge:amount={i + 1}/2550" for i in range(attacks)),
        dataset=str(root / "data" / "list.csv"),
        split="all",
        cases="all",
        untrained=True,
        roi_size="16",
    )
    return RunRequest(
        crossing=crossing, computing=Computing(**computing), writing=Writing(out=root)  # type: ignore[arg-type]
    )  # fmt: skip


def measure(request: RunRequest, root: Path, crew: Crew | None) -> float:
    """Seconds from the first event to the last, per job."""
    plan = build_plan(request.crossing, request.computing)
    jobs = sum(1 for _ in plan.jobs())
    elsewhere = None if crew is None else Elsewhere(crew=crew, assignment=assign(request, plan.dataset))
    with tempfile.TemporaryDirectory(dir=root) as folder, RecordStore(Path(folder) / "records") as store:
        store.lock()
        events = execute(Bench(plan), store, elsewhere=elsewhere)
        next(events)
        started = time.perf_counter()
        done = sum(1 for _ in events)
        seconds = time.perf_counter() - started
    if done != jobs - 1:
        raise RuntimeError(f"expected {jobs} jobs, got {done + 1}")
    return seconds / done


def computation(request: RunRequest) -> float:
    """Seconds of a job's own work: reading, crafting and scoring, without records and without anybody else."""
    plan = build_plan(request.crossing, request.computing)
    bench = Bench(plan)
    first, *jobs = plan.jobs()
    compute(bench, first)
    started = time.perf_counter()
    for job in jobs:
        compute(bench, job)
    return (time.perf_counter() - started) / len(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--attacks", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "light.py").write_text(LIGHT)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        write_toy(root / "data", asked.cases)
        request = request_of(root, asked.attacks)
        own = statistics.median(computation(request) for _ in range(asked.repeats))
        print(
            f"{asked.cases * (asked.attacks + 1)} jobs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        print(f"computation alone        {1000 * own:7.1f} ms per job")
        for name, crew in crews():
            try:
                found = sorted(measure(request, root, crew) for _ in range(asked.repeats))
            finally:
                if crew is not None:
                    crew.close()
            middle = statistics.median(found)
            each = ", ".join(f"{1000 * seconds:.1f}" for seconds in found)
            print(f"{name:24} {1000 * middle:7.1f} ms per job, {1000 * (middle - own):+.1f} ms ({each})")


def crews():
    """Who computes, by name."""
    from robustvox.benchmark.harness.processes import ProcessCrew

    yield "this process", None
    yield "one process", ProcessCrew(1)
    yield "two processes", ProcessCrew(2)
    try:
        from distributed import LocalCluster
    except ImportError:
        return
    from robustvox.benchmark.harness.dask_crew import connect

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        yield "Dask, one worker", connect(cluster.scheduler_address)


if __name__ == "__main__":
    main()
