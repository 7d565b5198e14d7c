"""From the harness to a picture: an attacked case as the records score it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..harness.compute import ClassScore, Scored, mean_dice
from ..harness.faults import CASE_FAILURES
from ..plan.attacks import short_name
from ..plan.plan import Job
from ..show.figures.slices import Example

if TYPE_CHECKING:
    from ..craft.named import NamedModel
    from ..harness.bench import Bench
    from ..plan.plan import Plan
    from ..records.reading import Records
    from ..records.unit import Unit


@dataclass(frozen=True)
class Pair:
    """One case on one target, clean and attacked, and what the records say of it."""

    clean: Scored
    attacked: Scored
    note: str


@dataclass(frozen=True)
class Failed:
    """A job that gave no pair."""

    job: Job
    error: BaseException


def attacked_pairs(
    bench: Bench, jobs: Sequence[tuple[Job, NamedModel]], records: Records
) -> Iterator[Pair | Failed]:
    """Every attack again, with the seeds of the records; one pair or failure per job, in order.

    Args:
        bench: computes them; the clean prediction once per case and target.
        jobs: with the target each is scored on.
        records: of the dataset.
    """
    clean: dict[tuple[str, tuple[str, str]], Scored] = {}
    for job, target in jobs:
        try:
            key = (job.case, target.key)
            if key not in clean:
                # Volumes of the case before are not needed any more.
                clean = {k: v for k, v in clean.items() if k[0] == job.case}
                clean[key] = bench.scored(Job(job.case, None, None, (target,)), target)
            attacked = bench.scored(job, target)
            unit = bench.plan.unit(job, target, bench.case(job.case).data_sha256)
            yield Pair(clean[key], attacked, compare_with_record(records, unit, attacked.outcome.scores))
        except CASE_FAILURES as error:
            yield Failed(job, error)


def compare_with_record(records: Records, unit: Unit, scores: Sequence[ClassScore]) -> str:
    """One sentence on whether the record of this very unit says the same.

    Args:
        records: of the dataset.
        unit: what was scored.
        scores: its scores as computed now.
    """
    found = records.scores[records.scores["unit"] == unit.key]
    if not len(found):
        return f"No record of this case, attack, checkpoint and seed ({unit.key})."
    recorded = dict(zip(found["class_id"], found["dice"], strict=True))
    now = {score.class_id: score.dice for score in scores}
    if recorded.keys() != now.keys():
        return f"Record {unit.key} holds other classes."
    pairs = np.array([(recorded[k], now[k]) for k in now], float)
    if np.array_equal(pairs[:, 0], pairs[:, 1], equal_nan=True):
        return f"Equal to record {unit.key} in the Dice of every class."
    difference = np.abs(pairs[:, 0] - pairs[:, 1])
    if not np.isfinite(difference).all():
        return f"Record {unit.key} differs in which classes are present."
    return f"Record {unit.key} differs by up to {difference.max():.2g} Dice in a class."


def make_example(plan: Plan, clean: Scored, attacked: Scored, notes: Sequence[str] = ()) -> Example:
    """The picture's data of one attacked case.

    Args:
        plan: names the dataset and its classes.
        clean, attacked: the clean and the adversarial image on one target.
        notes: further lines below the figure.
    """
    volume, job, moved = attacked.volume, attacked.job, attacked.outcome.distortion
    surrogate, target = job.surrogate.shown if job.surrogate else "", attacked.target.shown
    models = surrogate if surrogate == target else f"{surrogate} → {target}"
    spec = job.attack.spec if job.attack else ""
    setting = f"{spec}, seed {plan.seed}, {plan.protocol.name}."
    measured = (
        f"Measured: L-inf {255 * moved.linf:.3g}/255, L2 {moved.l2:.3g}, PSNR {moved.psnr:.3g} dB, "
        f"SSIM {moved.ssim:.3f}."
    )
    return Example(
        image=volume.image,
        adversarial=attacked.image,
        reference=volume.label,
        clean_prediction=clean.prediction,
        dice_clean=mean_dice(clean.outcome.scores),
        adversarial_prediction=attacked.prediction,
        dice_adversarial=mean_dice(attacked.outcome.scores),
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        class_names=plan.dataset.class_names,
        title=f"{plan.dataset.name}, {volume.id}  ·  {models}  ·  {short_name(spec)}",
        notes=(setting, " ".join((measured, *notes))),
    )
