"""Kill runs, their workers and their scheduler at random, and compare what is left with an undisturbed run.

    python tests/performance/kills.py [--kills 200] [--seed 0] [--only serial workers dask]

A round runs one command on a toy dataset, again and again as a person would, until it says that all is done. Meanwhile
processes get SIGKILL, SIGTERM or SIGINT at random moments. Afterwards the tables must have the bytes of the undisturbed
run (measured seconds aside), the records every unit once, and no run may have printed a traceback. The attack notes
whenever it finishes, so that what was computed twice is counted. Exits 1 when something differs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil

from robustvox.benchmark.records.reading import read_blocks
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS

CASES, ATTACKS, WORKERS = 6, 20, 2
PAUSE = 0.25
SHARES = {
    ("serial", "run"): 0.08,
    ("workers", "run"): 0.06,
    ("workers", "worker"): 0.72,
    ("dask", "run"): 0.04,
    ("dask", "worker"): 0.07,
    ("dask", "scheduler"): 0.03,
}
"""Of all kills. Killing a worker costs a second, killing a scheduler twenty."""

LIGHT = """
import hashlib, os, time
from dataclasses import dataclass
import torch
from robustvox.attacks import Attack

def net(num_classes):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, num_classes, 3, padding=1)

@dataclass(frozen=True, kw_only=True)
class Nudge(Attack):
    amount: float = 4 / 255
    pause: float = 0.15

    @property
    def radius(self):
        return self.amount

    def perturb(self, task):
        time.sleep(self.pause)
        found = (task.images - self.amount).clamp(0, 1)
        line = f"{self.amount} {hashlib.sha256(task.images.numpy().tobytes()).hexdigest()}\\n"
        handle = os.open(os.environ["FINISHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line.encode())
        os.close(handle)
        return found
"""


@dataclass
class Counts:
    """What a campaign saw."""

    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    starts: int = 0
    rounds: int = 0
    twice: int = 0
    tracebacks: int = 0
    problems: list[str] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = sum(self.kills.values())
        lines = [f"{total} kills in {self.rounds} rounds, {self.starts} starts of the command"]
        lines += [f"  {n:4d}  {mode}: {who}, {name}" for (mode, who, name), n in sorted(self.kills.items())]
        lines.append(f"exit codes: {dict(sorted(self.codes.items()))}")
        lines.append(
            f"volumes crafted to the end more than once: {self.twice}, {self.twice / max(total, 1):.2f} per kill"
        )
        lines.append(f"tracebacks: {self.tracebacks}")
        lines.append(f"tables or records that differ: {len(self.problems)}")
        return "\n".join([*lines, *self.problems])


class Work:
    """A toy dataset, a light network and attack, and the command that runs them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "toy"
        (root / "light.py").write_text(LIGHT)
        write_toy(self.folder)

    def environment(self, finished: Path) -> dict[str, str]:
        paths = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "FINISHED": str(finished),
            "OMP_NUM_THREADS": "1",
        }

    def command(self, out: Path, *more: str) -> list[str]:
        attacks = [f"light:Nudge:amount={i + 1}/255,pause={PAUSE}" for i in range(ATTACKS)]
        named = [word for attack in attacks for word in ("--attack", attack)]
        data = ["--dataset", str(self.folder), "--split", "all", "--cases", "all"]
        model = ["--model", "light:net", "--untrained", "--roi-size", "16"]
        start = [sys.executable, "-m", "robustvox.benchmark", "run", "--no-report", "--wait", "120"]
        return [*start, *model, *named, *data, "--out", str(out), *more]


def write_toy(folder: Path) -> None:
    """A folder of small volumes in the layout of the Medical Segmentation Decathlon."""
    import json

    rng = np.random.default_rng(0)
    ids = [f"case_{i:03d}" for i in range(CASES)]
    for i, name in enumerate(ids):
        label = np.zeros((12 + i, 14, 10), np.uint8)
        label[3:8, 4:9, 2:6] = 1
        image = rng.normal(100.0, 5.0, label.shape).astype(np.float32) + 60.0 * label
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), folder / part / f"{name}.nii.gz")
    listed = [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids]
    labels = {"0": "background", "1": "one"}
    (folder / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": listed})
    )


class Dask:
    """A scheduler and two workers with nannies on the loopback address."""

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.address, self._environment = f"tcp://127.0.0.1:{port}", environment
        self._port = port
        self._scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show"
        )
        self._nannies = [self._worker() for _ in range(WORKERS)]

    def _start(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--no-dashboard"]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _worker(self) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", self.address, "--nthreads", "1", "--nworkers", "1")

    def victims(self, who: str) -> list[psutil.Process]:
        if who == "scheduler":
            return [psutil.Process(self._scheduler.pid)]
        return [child for nanny in self._nannies for child in _descendants(nanny.pid) if _is_worker(child)]

    def mend(self) -> None:
        """Start again what is gone, as whoever runs the cluster would."""
        if self._scheduler.poll() is not None:
            self.close()
            self.__init__(self._port, self._environment)
        self._nannies = [n if n.poll() is None else self._worker() for n in self._nannies]

    def close(self) -> None:
        for process in (*self._nannies, self._scheduler):
            for child in _descendants(process.pid):
                _signal(child, signal.SIGKILL)
            process.kill()
            process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def campaign(work: Work, kills: int, seed: int, modes: list[str]) -> Counts:
    """Rounds in every mode until its share of kills is spent."""
    counts, rng = Counts(), random.Random(seed)
    reference = work.root / "reference"
    subprocess.run(
        work.command(reference),
        env=work.environment(work.root / "reference.log"),
        check=True,
        capture_output=True,
    )
    for mode in modes:
        left = [
            who
            for (m, who), share in SHARES.items()
            if m == mode
            for _ in range(max(1, round(kills * share)))
        ]
        rng.shuffle(left)
        finished = work.root / f"{mode}.log"
        cluster = Dask(18790 + seed % 100, work.environment(finished)) if mode == "dask" else None
        try:
            while left:
                finished.write_text("")
                out = work.root / f"{mode}-{counts.rounds}"
                before = sum(counts.kills.values())
                one_round(work, mode, out, finished, left, cluster, counts, rng)
                counts.problems += list(differences(reference, out))
                lines = finished.read_text().splitlines()
                again, here = len(lines) - len(set(lines)), sum(counts.kills.values()) - before
                counts.twice += again
                counts.rounds += 1
                print(
                    f"round {counts.rounds} {mode}: {here} kills, {again} twice, {len(left)} left", flush=True
                )
        finally:
            if cluster is not None:
                cluster.close()
    return counts


def one_round(
    work: Work,
    mode: str,
    out: Path,
    finished: Path,
    left: list[str],
    cluster: Dask | None,
    counts: Counts,
    rng: random.Random,
) -> None:
    """One set of results: start the command until it ends with 0, killing as long as kills are left."""
    more = {"serial": [], "workers": ["--workers", str(WORKERS)]}.get(mode)
    for start in range(200):
        if cluster is not None:
            cluster.mend()
        words = ["--scheduler", cluster.address] if cluster is not None else more or []
        log = out.with_suffix(f".{start}.txt")
        with log.open("wb") as stream:
            run = subprocess.Popen(
                work.command(out, *words), env=work.environment(finished), stdout=stream, stderr=stream
            )
            counts.starts += 1
            begun, size = time.monotonic(), finished.stat().st_size
            while run.poll() is None and left:
                # Often in the middle of the work, sometimes while it starts or ends.
                while run.poll() is None and finished.stat().st_size == size and rng.random() < 0.999:
                    time.sleep(0.1)
                if not _sleep(run, rng.uniform(0.05, 1.5)):
                    break
                size = finished.stat().st_size
                kill_one(mode, left, run, cluster, counts, rng)
            try:
                code = run.wait(600)
            except subprocess.TimeoutExpired:
                counts.problems.append(f"{log.name}: still running after {time.monotonic() - begun:.0f} s")
                run.kill()
                return
        counts.codes[code] += 1
        text = log.read_text(errors="replace")
        if "Traceback" in text:
            counts.tracebacks += 1
            print(f"--- {log}\n{text[-3000:]}", flush=True)
        if code == 0:
            return
        print(f"  exit code {code}: {' '.join(text.split())[-300:]}", flush=True)
    counts.problems.append(f"{out.name}: not done after {start + 1} starts")


def _sleep(run: subprocess.Popen[bytes], seconds: float) -> bool:
    """Sleep while the run lives; whether it still does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.poll() is None:
        time.sleep(0.02)
    return run.poll() is None


def kill_one(
    mode: str,
    left: list[str],
    run: subprocess.Popen[bytes],
    cluster: Dask | None,
    counts: Counts,
    rng: random.Random,
) -> None:
    who = left[-1]
    if who == "run":
        victims = [psutil.Process(run.pid)]
    elif cluster is not None:
        victims = cluster.victims(who)
    else:
        victims = [child for child in _descendants(run.pid) if _is_worker(child)]
    if not victims:
        return
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    if who == "worker" and mode == "workers":
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])  # Ctrl-C is not for them: they do not hear it
    if _signal(rng.choice(victims), number):
        left.pop()
        counts.kills[mode, who, number.name] += 1


def differences(reference: Path, out: Path) -> Iterator[str]:
    """What two folders of results differ in, one line each."""
    for name in ("white_box.csv", "cases.csv"):
        paths = [next(iter(sorted(folder.glob(f"*/{name}"))), None) for folder in (reference, out)]
        if None in paths:
            if any(paths):
                yield f"{out.name}: {name} is missing"
            continue
        texts = []
        for path in paths:
            frame = pd.read_csv(path, keep_default_na=False, dtype=str)  # type: ignore[arg-type]
            texts.append(frame.drop(columns=[c for c in MEASURED_COLUMNS if c in frame]).to_csv(index=False))
        if texts[0] != texts[1]:
            yield f"{out.name}: {name} differs"
    for path in sorted(reference.glob("*/records/*/*/*.jsonl")):
        other = out / path.relative_to(reference)
        wanted = Counter(block[-1]["unit"] for block, _ in read_blocks(path))
        blocks = [block[-1] for block, _ in read_blocks(other)]
        found = Counter(row["unit"] for row in blocks if row["kind"] == "cost")
        if found != wanted:
            yield f"{out.name}: {path.name} has {sum(found.values())} units of {sum(wanted.values())}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["serial", "workers", "dask"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = campaign(Work(Path(folder)), asked.kills, asked.seed, asked.only)
    print(counts)
    return 1 if counts.problems or counts.tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
