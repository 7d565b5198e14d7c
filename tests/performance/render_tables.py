"""Time and peak memory of rendering every table and the page from many record rows.

Run ``python tests/performance/render_tables.py [--rows 100000]``. The records are synthetic: eleven models under as
many attack specs as the rows ask for, twelve cases, two organs, one transfer target per third attack. The limit of
issue 6 is 20 s and 1.5 GB on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.show.tables import results as tables

MODELS, CASES, CLASSES = 11, 12, 2
LIMIT_SECONDS, LIMIT_BYTES = 20.0, 1.5e9


def units() -> Iterator[Unit]:
    """Clean ones first, then attack by attack."""

    def unit(case: int, attack: str, surrogate: int, target: int) -> Unit:
        return Unit(
            dataset="phantom",
            case=f"case_{case:03d}",
            attack=attack,
            surrogate=f"model_{surrogate:02d}",
            surrogate_sha256=f"{surrogate:064x}",
            target=f"model_{target:02d}",
            target_sha256=f"{target:064x}",
            protocol="robustvox-1",
            seed=0,
            data_sha256=f"{case:064x}",
        )

    for case in range(CASES):
        for model in range(MODELS):
            yield unit(case, "none", model, model)
    for step in range(1, sys.maxsize):
        attack = f"pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps={step}"
        for case in range(CASES):
            for model in range(MODELS):
                yield unit(case, attack, model, model)
                if step % 3 == 0:
                    yield unit(case, attack, model, (model + step) % MODELS)


def write_records(root: Path, rows: int) -> int:
    """Fill ``root`` with about ``rows`` lines, as :class:`RecordStore` would, without its sync per unit."""
    rng = random.Random(0)
    files: dict[Path, list[str]] = {}
    written = 0
    for unit in units():
        if written >= rows:
            break
        attack = "clean" if unit.attack == "none" else "pgd"
        lines = files.setdefault(root / unit.protocol / unit.surrogate / f"{attack}.jsonl", [])
        shown = {"unit": unit.key, **{k: v for k, v in vars(unit).items() if not k.endswith("sha256")}}
        hashes = {k: v for k, v in vars(unit).items() if k.endswith("sha256")}
        for organ in range(1, CLASSES + 1):
            score = {"dice": rng.random(), "hd95_mm": 20 * rng.random(), "nsd": rng.random(), "status": "ok"}
            named = {"class_id": organ, "class_name": f"organ {organ}"}
            lines.append(json.dumps({"kind": "score", **shown, **named, **score}))
        cost = {"linf": 8 / 255, "l2": 7 * rng.random(), "psnr": 40.0, "ssim": rng.random(), "forwards": 21}
        cost |= {"backwards": 20, "seconds": rng.random(), "flags": [], "provenance": "p"}
        lines.append(json.dumps({"kind": "cost", **shown, **hashes, **cost}))
        written += CLASSES + 1
    for path, lines in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        rows = write_records(results / "phantom" / "records", parser.parse_args().rows)
        start = time.process_time()
        load_records(results / "phantom" / "records")
        loaded = time.process_time() - start
        start, busy = time.perf_counter(), time.process_time()
        files = tables.render(results)
        rendered, busy = time.perf_counter() - start, time.process_time() - busy
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        f"{rows} record rows: reading alone {loaded:.1f} s of processor time; rendering, reading included, {busy:.1f} s"
    )
    print(f"of processor time and {rendered:.1f} s by the clock, which on a shared machine may be much more")
    for path, text in files.items():
        print(f"  {path.name}: {len(text) / 1e6:.1f} MB, {text.count(chr(10))} lines")
    print(f"peak memory {peak / 1e9:.2f} GB")
    if busy > LIMIT_SECONDS or peak > LIMIT_BYTES:
        sys.exit(f"expected under {LIMIT_SECONDS:.0f} s and {LIMIT_BYTES / 1e9} GB")


if __name__ == "__main__":
    main()
