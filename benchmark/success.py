"""Attack success rates: per voxel from label volumes, per organ from records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .records import Records

if TYPE_CHECKING:
    from pandas import DataFrame

LOST_BELOW = 0.5
"""An organ is lost when its Dice falls below this share of its clean Dice."""

KEYS = ["dataset", "protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack"]
"""What identifies a row: whose volumes by which attack, scored on whom."""

_ROLE = ["dataset", "protocol", "target", "target_sha256", "case", "class_id"]


class VoxelSuccess(NamedTuple):
    """Shares in 0..1 of voxels right on the clean volume that are wrong under attack; NaN where none was right.

    Attributes:
        voxel: over all voxels.
        foreground: over voxels whose reference is not background.
    """

    voxel: float
    foreground: float


def voxel_success(adversarial: np.ndarray, clean: np.ndarray, reference: np.ndarray) -> VoxelSuccess:
    """Success rate of an attack per voxel, against the reference rather than the clean prediction.

    Source: the attack success rate of the benchmark of arXiv:2406.08486.

    Differs from the source: that compares with the clean prediction, so that repairing an error counts as success.

    Args:
        adversarial, clean: predicted class ids on the attacked and on the clean image.
        reference: true class ids.

    Shape:
        All ``(*spatial)`` integer.

    Raises:
        ValueError: on different shapes.

    Example:
        >>> voxel_success(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1]))
        VoxelSuccess(voxel=0.3333333333333333, foreground=0.5)
    """
    if not adversarial.shape == clean.shape == reference.shape:
        raise ValueError(
            f"expected three label volumes of one shape, got {adversarial.shape}, {clean.shape} and "
            f"{reference.shape}; resample the predictions to the reference"
        )
    right = clean == reference
    wronged = right & (adversarial != reference)

    def share(where: np.ndarray) -> float:
        total = np.count_nonzero(right & where)
        return float(np.count_nonzero(wronged & where) / total) if total else float("nan")

    return VoxelSuccess(share(np.ones(right.shape, bool)), share(reference != 0))


def lost_organs(records: Records) -> DataFrame:
    """Success rate of every attack per organ: in how many cases the organ's Dice fell below half of clean.

    An organ counts where the reference has it and its clean Dice is known and above 0.

    Source: none; the share of one half is ours. Differs from a drop of the mean in saying how often, not how much.

    Args:
        records: what :func:`robustvox.benchmark.records.load_records` read.

    Returns:
        One row per dataset, protocol, surrogate, target, attack and class, sorted, with ``n_organs`` (organ,
        case and seed), ``lost`` and ``success`` = lost / n_organs in 0..1.

    Example:
        >>> from pathlib import Path
        >>> from robustvox.benchmark.records import load_records
        >>> lost_organs(load_records(Path("no/such/folder"))).columns[-3:].tolist()
        ['n_organs', 'lost', 'success']
    """
    pairs = organ_outcomes(records)
    table = (
        pairs.groupby([*KEYS, "class_id", "class_name"])["lost"]
        .agg(n_organs="size", lost="sum")
        .reset_index()
    )
    table["lost"] = table["lost"].astype("int64")
    return table.assign(success=table["lost"] / table["n_organs"])


def organ_outcomes(records: Records) -> DataFrame:
    """Every organ of every attacked case (and seed), sorted, with ``lost`` true or false; see :func:`lost_organs`."""
    hashes = records.costs[["unit", "surrogate_sha256", "target_sha256"]]
    scores: Any = records.scores.merge(hashes, on="unit")
    scores = scores[scores["class_id"] > 0]  # some protocols score the background, which is no organ
    clean = scores[(scores["attack"] == "none") & scores["status"].isin(["ok", "missing"])]
    clean = clean.groupby(_ROLE, as_index=False)["dice"].mean().rename(columns={"dice": "dice_clean"})
    pairs = scores[scores["attack"] != "none"].merge(clean[clean["dice_clean"] > 0], on=_ROLE)
    pairs["lost"] = pairs["dice"] < LOST_BELOW * pairs["dice_clean"]
    return pairs.sort_values([*KEYS, "case", "class_id"], kind="stable", ignore_index=True)
