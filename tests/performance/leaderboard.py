"""Rendering 100,000 record rows, 11 models x 14 attacks x 4 datasets with all transfers, and opening the page.

python tests/performance/leaderboard.py [FOLDER]

With ROBUSTVOX_NODE_MODULES (a folder that holds playwright-core) and Chromium the page is opened, too: time from
navigation to the first frame after everything is in place. Limits: 20 s and 1.5 GB to render, 3 MB, 1 s.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from robustvox.attacks import ATTACKS
from robustvox.benchmark.records.paths import records_file
from robustvox.benchmark.show.files import render, write
from robustvox.models import CATALOG as MODELS

DATASETS = ("btcv", "acdc", "hecktor", "hippocampus")
CASES, CLASSES = 5, 2
OPEN = Path(__file__).resolve().parents[1] / "benchmark" / "show" / "page" / "browser.cjs"


def build(root: Path) -> int:
    """Records of every model on every other under every attack; returns the number of rows."""
    rng, rows = np.random.default_rng(0), 0
    shas = {model: f"{i:064x}" for i, model in enumerate(MODELS)}
    specs = {"none": "none"} | {name: f"{name}:eps=8/255,steps=20" for name in ATTACKS}
    for dataset, surrogate, (attack, spec) in itertools.product(DATASETS, MODELS, specs.items()):
        lines = []
        targets = [surrogate] if attack == "none" else MODELS
        for target, case in itertools.product(targets, range(CASES)):
            unit = {
                **{
                    "unit": f"{rng.integers(2**62):016x}",
                    "dataset": dataset,
                    "case": f"c{case}",
                    "attack": spec,
                },
                **{"surrogate": surrogate, "target": target, "protocol": "robustvox-1", "seed": 0},
            }
            for class_id in range(1, CLASSES + 1):
                score = dict(zip(("dice", "hd95_mm", "nsd"), rng.random(3).tolist(), strict=True))
                name = {"class_id": class_id, "class_name": f"organ {class_id}"}
                lines.append({"kind": "score", **unit, **name, **score, "status": "ok"})
            cost = {
                **{"surrogate_sha256": shas[surrogate], "target_sha256": shas[target], "data_sha256": ""},
                **{"linf": 8 / 255, "l2": 7.5, "psnr": 30.0, "ssim": 0.97, "forwards": 21, "backwards": 20},
                **{"seconds": 1.0, "flags": ["no-progress"] if rng.random() < 0.02 else [], "provenance": ""},
            }
            lines.append({"kind": "cost", **unit, **cost})
        path = root / dataset / "records" / records_file("robustvox-1", surrogate, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows += len(lines)
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        print(f"{build(root):,} record rows")
        wall, cpu = time.perf_counter(), time.process_time()
        write(root)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"all tables and the page: {wall:.1f} s wall, {cpu:.1f} s processor, peak {peak:.2f} GB")
        page = root / "index.html"
        print(f"page: {page.stat().st_size / 1e6:.2f} MB")
        assert render(root)[page].encode() == page.read_bytes()
        if os.environ.get("ROBUSTVOX_NODE_MODULES"):
            print(
                subprocess.run(
                    ["node", OPEN, "time", page],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={"ROBUSTVOX_CHROMIUM": shutil.which("chromium") or "", **os.environ},
                ).stdout
            )


if __name__ == "__main__":
    main()
