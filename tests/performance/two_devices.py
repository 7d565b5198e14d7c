"""How far the rows of two folders of records are apart: one device beside another, or one version beside another.

    python -m benchmark --model unet --attack pgd --dataset hippocampus --data-root DIR --cases 12 --device cuda --out runs/card
    python tests/performance/two_devices.py results/hippocampus runs/card/hippocampus

A row per model and attack that both hold on the same volumes and weights: the means of both, their difference, and the
largest difference of one organ of one case.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from robustvox.benchmark import load_records

SAME = ["unit", "class_id"]  # a unit is the hash of weights, volume, attack, protocol and seed


def compare(first: Path, second: Path) -> pd.DataFrame:
    """Dice of all white-box and clean rows that both folders hold."""
    a, b = (load_records(folder / "records").scores for folder in (first, second))
    both = a.merge(b, on=SAME, suffixes=("_a", "_b"))
    both = both[both.surrogate_a == both.target_a]
    both = both.assign(off=both.dice_b - both.dice_a)
    found = both.groupby(["target_a", "attack_a"]).agg(
        n=("case_a", "nunique"), first=("dice_a", "mean"), second=("dice_b", "mean"), mean=("off", "mean"),
        worst=("off", lambda off: off.abs().max()),
    )  # fmt: skip
    return found.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    asked = parser.parse_args()
    print(compare(asked.first, asked.second).to_string(index=False, float_format="{:.5f}".format))


if __name__ == "__main__":
    main()
