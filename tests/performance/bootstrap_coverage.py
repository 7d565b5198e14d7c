"""Coverage of the 95% bootstrap interval of the mean on simulated case scores.

Run ``OMP_NUM_THREADS=1 python tests/performance/bootstrap_coverage.py``: 12 and 40 cases, Dice distributions
from nearly symmetric to strongly skewed, how often the interval holds the true mean, beside Student's t.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.stats import t

from robustvox.benchmark.statistics import bootstrap_intervals

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
SHAPES = {"attacked": (2.0, 4.0), "middling": (5.0, 3.0), "clean": (18.0, 2.0), "nearly lost": (0.7, 6.0)}


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'scores':12}{'cases':>6}{'bootstrap':>11}{'t':>8}")
    for name, (alpha, beta) in SHAPES.items():
        for size in (12, 40):
            scores = rng.beta(alpha, beta, (TRIALS, size))
            truth = alpha / (alpha + beta)
            low, high = bootstrap_intervals(scores, resamples=2000)
            covered = np.mean((low <= truth) & (truth <= high))
            half = t.ppf(0.975, size - 1) * scores.std(axis=1, ddof=1) / np.sqrt(size)
            student = np.mean(np.abs(scores.mean(axis=1) - truth) <= half)
            print(f"{name:12}{size:6}{covered:11.3f}{student:8.3f}", flush=True)


if __name__ == "__main__":
    main()
