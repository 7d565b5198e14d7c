"""From the harness to a picture: an attacked case as the records score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .names import short_name
from .slices import Example

if TYPE_CHECKING:
    from ..harness import Plan, Scored
    from ..records import Records, Unit


def mean_dice(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the classes that the case has, as in the tables; NaN without any.

    Example:
        >>> mean_dice([{"dice": 0.8}, {"dice": 0.6}, {"dice": float("nan")}])
        0.7
    """
    values = np.array([row["dice"] for row in rows], float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def make_example(
    plan: Plan, clean: Scored, attacked: Scored, cost: Mapping[str, Any], notes: Sequence[str] = ()
) -> Example:
    """The picture's data of one attacked case.

    Args:
        plan: names the dataset and its classes.
        clean, attacked: what :attr:`Plan.watch` saw of the clean and of the adversarial image, one target.
        cost: ``linf l2 psnr ssim`` of the attacked volume, as in the records.
        notes: further lines below the figure.
    """
    volume, job = attacked.volume, attacked.job
    surrogate = job.surrogate.name if job.surrogate else ""
    models = surrogate if surrogate == attacked.target.name else f"{surrogate} → {attacked.target.name}"
    spec = job.attack.spec if job.attack else ""
    setting = f"{spec}, seed {plan.seed}, {plan.protocol.name}."
    measured = (
        f"Measured: L-inf {255 * cost['linf']:.3g}/255, L2 {cost['l2']:.3g}, PSNR {cost['psnr']:.3g} dB, "
        f"SSIM {cost['ssim']:.3f}."
    )
    return Example(
        image=volume.image,
        adversarial=attacked.image,
        reference=volume.label,
        clean_prediction=clean.prediction,
        adversarial_prediction=attacked.prediction,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        class_names=plan.dataset.class_names,
        dice_clean=mean_dice(clean.rows),
        dice_adversarial=mean_dice(attacked.rows),
        title=f"{plan.dataset.name}, {volume.id}  ·  {models}  ·  {short_name(spec)}",
        notes=(setting, " ".join((measured, *notes))),
    )


def compare_with_record(records: Records, unit: Unit, rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on whether the record of this very unit says the same.

    Args:
        records: of the dataset.
        unit: what was scored.
        rows: its scores as computed now, one mapping per class with ``class_id`` and ``dice``.
    """
    found = records.scores[records.scores["unit"] == unit.key]
    if not len(found):
        return f"No record of this case, attack, checkpoint and seed ({unit.key})."
    recorded = dict(zip(found["class_id"], found["dice"], strict=True))
    now = {row["class_id"]: row["dice"] for row in rows}
    if recorded.keys() != now.keys():
        return f"Record {unit.key} holds other classes."
    pairs = np.array([(recorded[k], now[k]) for k in now], float)
    if np.array_equal(pairs[:, 0], pairs[:, 1], equal_nan=True):
        return f"Equal to record {unit.key} in the Dice of every class."
    difference = np.abs(pairs[:, 0] - pairs[:, 1])
    if not np.isfinite(difference).all():
        return f"Record {unit.key} differs in which classes are present."
    return f"Record {unit.key} differs by up to {difference.max():.2g} Dice in a class."
