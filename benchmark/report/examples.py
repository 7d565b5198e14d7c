"""From the harness to a picture: an attacked case as the records score it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..harness.compute import mean_dice
from ..plan.attacks import short_name
from ..show.figures.slices import Example

if TYPE_CHECKING:
    from ..harness.compute import Scored
    from ..plan.plan import Plan


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
