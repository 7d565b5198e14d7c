"""Rendering 100,000 record rows, 11 models x 14 attacks x 4 datasets with all transfers, and opening the page.

python tests/performance/leaderboard.py [FOLDER] [--cases 5] [--classes 2]

Everything is there that a page can show: the whole suite and so a ranking, attacks at two budgets and so curves, a picture
of the size of hippocampus' own, model cards, and from eight cases on intervals. With ROBUSTVOX_NODE_MODULES (a folder that
holds playwright-core) and Chromium the page is opened, too: time from navigation to the first frame after everything is
in place. Limits: 20 s and 1.5 GB to render 100,000 rows, 3 MB, 1 s.
"""

from __future__ import annotations

import argparse
import io
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

from robustvox.benchmark.records.paths import records_file
from robustvox.benchmark.show.files import load_board, render, write
from robustvox.benchmark.show.page.pictured import COLUMNS, FOLDER, SUFFIX, pictured
from robustvox.benchmark.show.page.ranking import rank
from robustvox.benchmark.specs.suites import SUITES
from robustvox.models import CATALOG as MODELS

DATASETS = ("btcv", "acdc", "hecktor", "flare22")  # without frozen cases: any are ranked
MORE = (
    "fgsm:eps=4/255,loss=dice",
    "pgd:alpha=1/255,eps=4/255,loss=dice,random_start=true,restarts=1,steps=20",
    "cospgd:alpha=1/255,eps=4/255,random_start=true,restarts=1,steps=20",
    "gn:std=4/255",
    "uniform:corners=false,eps=8/255",
    "square:eps=8/255,loss=dice,p_init=0.8,queries=1000",
)
SPECS = tuple(row.spec for row in SUITES["robustvox-1"].run) + MORE
OPEN = Path(__file__).resolve().parents[1] / "benchmark" / "show" / "page" / "browser.cjs"


def build(root: Path, cases: int, classes: int) -> int:
    """Records of every model on every other under every attack; returns the number of rows."""
    rng, rows = np.random.default_rng(0), 0
    shas = {model: f"{i:064x}" for i, model in enumerate(MODELS)}
    files: dict[Path, list[dict]] = {}
    for dataset, surrogate, spec in itertools.product(DATASETS, MODELS, ("none", *SPECS)):
        path = root / dataset / "records" / records_file("robustvox-1", surrogate, spec)
        lines = files.setdefault(path, [])
        targets = [surrogate] if spec == "none" else MODELS
        for target, case in itertools.product(targets, range(cases)):
            unit = {
                **{
                    "unit": f"{rng.integers(2**62):016x}",
                    "dataset": dataset,
                    "case": f"c{case}",
                    "attack": spec,
                },
                **{"surrogate": surrogate, "target": target, "protocol": "robustvox-1", "seed": 0},
            }
            for class_id in range(1, classes + 1):
                score = dict(zip(("dice", "hd95_mm", "nsd"), rng.random(3).tolist(), strict=True))
                name = {"class_id": class_id, "class_name": f"organ {class_id}"}
                lines.append({"kind": "score", **unit, **name, **score, "status": "ok"})
            cost = {
                **{"surrogate_sha256": shas[surrogate], "target_sha256": shas[target], "data_sha256": ""},
                **{"linf": 8 / 255, "l2": 7.5, "psnr": 30.0, "ssim": 0.97, "forwards": 21, "backwards": 20},
                **{"seconds": 1.0, "flags": ["no-progress"] if rng.random() < 0.02 else [], "provenance": ""},
            }
            lines.append({"kind": "cost", **unit, **cost})
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows += len(lines)
    return rows


def draw(root: Path) -> None:
    """A picture of noise for every ranking, as large in bytes as a real one."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (600, 196 * len(COLUMNS), 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="WEBP", quality=8)
    for dataset in DATASETS:
        board = load_board(root / dataset)
        wanted = pictured(board, rank(board, "robustvox-1"))
        if wanted is None:
            sys.exit(f"{dataset}: expected a ranking, found none")
        (root / dataset / FOLDER).mkdir()
        (root / dataset / FOLDER / f"{wanted.key}{SUFFIX}").write_bytes(stream.getvalue())
    print(f"a picture of {len(stream.getvalue()) / 1e3:.0f} kB each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--classes", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.folder or Path(folder)
        print(
            f"{build(root, given.cases, given.classes):,} record rows of {len(MODELS)} models, {len(SPECS)} attacks"
        )
        draw(root)
        wall, cpu = time.perf_counter(), time.process_time()
        write(root)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"all tables and the page: {wall:.1f} s wall, {cpu:.1f} s processor, peak {peak:.2f} GB")
        page = root / "index.html"
        text = page.read_text(encoding="utf-8")
        print(f"page: {page.stat().st_size / 1e6:.2f} MB, {text.count('data:image/webp')} pictures")
        if render(root)[page] != text:
            sys.exit("expected the same page again, got another one")
        opened = [0.0]
        if os.environ.get("ROBUSTVOX_NODE_MODULES"):
            found = subprocess.run(
                ["node", OPEN, "time", page],
                check=True,
                capture_output=True,
                text=True,
                env={"ROBUSTVOX_CHROMIUM": shutil.which("chromium") or "", **os.environ},
            ).stdout
            opened = sorted(json.loads(found)["milliseconds"])
            processor = sorted(json.loads(found)["processor"])
            print(
                f"opened five times: {', '.join(f'{t:.0f}' for t in opened)} ms; processor {processor[2]:.0f} ms (median)"
            )
        if page.stat().st_size > 3e6 or opened[len(opened) // 2] > 1000:
            sys.exit("expected under 3 MB and 1 s")


if __name__ == "__main__":
    main()
