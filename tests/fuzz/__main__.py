"""The fuzzer: files that lie, in every format that the suite reads, and what became of them.

    python -m tests.fuzz [--inputs 2000] [--seed 0] [--only NAME] [--quick] [--minutes 60] [--json FILE]

Every input is made from a seed, read in a process of its own through the door that the command line uses, and counted
by what became of it: accepted (and right, as far as an independent reader tells), failed row, refused in one line; or
traceback, hang (10 s of the processor), memory (4 GB), executed, silently wrong, terminal (a control code came
through), outside (a file was written where none belongs). The exit code is 1 if there is any of the latter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from .judge import BAD, GOOD, Outcome, Reader, warm
from .samples import samples


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true", help="only formats that are read in moments")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop and count what was read until then"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    started = time.perf_counter()
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-samples-"))
        chosen = [s for s in samples(Path(root), thorough=not options.quick) if options.only in s.name]
        for sample in chosen:
            warm(sample, Path(root))
        outcomes = []
        reader = stack.enter_context(Reader(chosen))
        for number in range(options.inputs):
            if time.perf_counter() - started > 60 * options.minutes:
                break
            outcome = reader.judge(chosen[number % len(chosen)], options.seed + number // len(chosen))
            outcomes.append(outcome)
            if outcome.kind in BAD:
                print(
                    f"{outcome.kind}: {outcome.format}, seed {outcome.seed}, {outcome.how}: {outcome.detail}",
                    flush=True,
                )
    print(table(outcomes))
    print(f"{len(outcomes)} inputs in {time.perf_counter() - started:.0f} s, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    return 1 if any(outcome.kind in BAD for outcome in outcomes) else 0


def table(outcomes: Sequence[Outcome]) -> str:
    """A row per format, a column per class that occurs."""
    kinds = [k for k in (*GOOD, *BAD)]
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.format, Counter())[outcome.kind] += 1
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    head = " ".join([" " * width, *(f"{k:>{max(len(k), 5)}}" for k in kinds), "  s max"])
    longest = {f: max((o.seconds for o in outcomes if f in (o.format, "all")), default=0) for f in counts}
    rows = [
        " ".join([f"{f:<{width}}", *(f"{c[k]:>{max(len(k), 5)}}" for k in kinds), f"{longest[f]:7.1f}"])
        for f, c in counts.items()
    ]
    return "\n".join([head, *rows])


if __name__ == "__main__":
    sys.exit(main())
