"""Checks of what is scored: does the volume respect its budget, and does the score mean what it says?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from robustvox.attacks import frozen

from ...metrics.distortion import measure
from ...records.volumes import Note, save_adversarial
from ...specs.protocols import DEFAULT_PROTOCOL
from .base import FAIL, PASS, WARN, Finding, check, grade
from .context import Case, Context, is_noise, lacks, no_gradient

_SLACK = 1e-6  # rounding of a difference of float32 intensities


_EDGE = 0.99  # from this share of the radius on, a voxel counts as moved to the edge


@check(
    "C1",
    "clean-consistency",
    "no budget, no change",
    "difference to the clean Dice: fail > 0",
    needs=(lambda context: "" if context.knob in ("eps", "std") else "no budget of it is zero",),
)
def clean_consistency(context: Context) -> Finding:
    # One step is enough: nothing may move. Zero queries or steps would skip the path that is scored.
    nothing = context.at(0.0, steps=1, queries=1)
    gaps = [abs(context.run(case, nothing).dice - context.clean(case).dice) for case in context.cases]
    known = [gap for gap in gaps if gap == gap]
    worst = max(known, default=0.0)
    return Finding(
        FAIL if worst else PASS, worst, f"largest difference of {len(gaps)} cases at {context.knob} 0"
    )


@check(
    "C13",
    "budget-audit",
    "in its ball after saving and loading",
    "fail above eps + 1e-6, outside [0, 1], not finite or changed; warn when < 5% of voxels reach eps",
)
def budget_audit(context: Context) -> Finding:
    radius = context.attack.radius
    moved = [_reloaded(context, case) - case.volume.image for case in context.cases]
    stored = np.concatenate([(m + c.volume.image).ravel() for m, c in zip(moved, context.cases, strict=True)])
    distances = np.abs(np.concatenate([m.ravel() for m in moved]))
    unusable = int(np.count_nonzero(~np.isfinite(distances)))
    largest = float(distances.max()) if not unusable else float("nan")
    inside = stored.min() >= -_SLACK and stored.max() <= 1 + _SLACK
    quartiles = ", ".join(f"{np.percentile(distances, q) * 255:.2f}" for q in (25, 50, 75))
    detail = f"largest change; quartiles of the change {quartiles} of 255; {unusable} voxels not finite"
    if radius is None:
        return Finding(FAIL if unusable or not inside else PASS, largest, detail)
    edge = float((distances >= _EDGE * radius).mean())
    status = FAIL if unusable or not inside or not largest <= radius + _SLACK else PASS
    if status == PASS and edge < 0.05 and radius > 0 and not no_gradient(context):
        status = WARN
    return Finding(status, largest, f"{detail}; {edge:.1%} of voxels at eps")


# What is saved here is read back at once, so nobody asks where it came from.
_NOTE = Note(
    key="check",
    units="unit",
    dataset="check",
    case="check",
    attack="attack",
    surrogate="model",
    surrogate_sha256="",
    protocol=DEFAULT_PROTOCOL,
    seed=0,
    data_sha256="",
    forwards=0,
    backwards=0,
    seconds=0.0,
    flags=(),
)


def _reloaded(context: Context, case: Case) -> np.ndarray:
    """The attacked image after a round trip through a file."""
    image = context.images(case)[0].cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = save_adversarial(Path(folder), case.volume, image, _NOTE)
        loaded = np.asarray(nib.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    loaded = loaded[None] if image.shape[0] == 1 else np.moveaxis(loaded, -1, 0)
    if loaded.shape != image.shape or not np.array_equal(loaded, image, equal_nan=True):
        raise ValueError(
            f"{case.id}: expected the scored volume from its file, got another. Check the writer"
        )
    return loaded


@check(
    "C18",
    "batch-invariance",
    "company and order change nothing",
    "largest change of a voxel when two cases are attacked again: fail > 0",
    runs=2,
)
def batch_invariance(context: Context) -> Finding:
    pair = (context.cases * 2)[:2]
    alone = [context.images(case) for case in pair]
    if _batchable(context, pair):
        together = context.attack.at_spacing(pair[0].volume.spacing_mm)(
            context.predictor(pair[0]),
            torch.cat([case.images for case in pair]),
            torch.cat([case.labels for case in pair]),
            generator=[context.generator(case) for case in pair],
        ).split(1)
        detail = "two cases as one batch"
    else:
        together = [context.craft(case) for case in reversed(pair)][::-1]
        detail = "in reverse order, as shapes or the network itself differ in a batch"
    change = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
    return Finding(PASS if change == 0 else FAIL, change, detail)


@torch.no_grad()
def _batchable(context: Context, pair: list[Case]) -> bool:
    """Whether two different cases fit into a batch and the network answers it bit for bit as it answers them."""
    one, other = pair
    if one is other or one.images.shape != other.images.shape:
        return False
    predictor = context.predictor(one)
    own = predictor is not context.predictor(other) or one.volume.spacing_mm != other.volume.spacing_mm
    if own or one.volume.ignore is not None or other.volume.ignore is not None:
        return False
    with frozen(predictor):
        both = predictor(torch.cat([one.images, other.images]))
        return torch.equal(both, torch.cat([predictor(one.images), predictor(other.images)]))


@check(
    "C20",
    "metric-agreement",
    "Dice and HD95 agree",
    "cases where Dice falls by > 0.01 and HD95 improves by > 5%: warn",
)
def metric_agreement(context: Context) -> Finding:
    odd = 0
    for case in context.cases:
        clean, attacked = context.clean(case), context.run(case)
        odd += clean.dice - attacked.dice > 0.01 and attacked.hd95 < 0.95 * clean.hd95
    pairs = [(context.clean(case).hd95, context.run(case).hd95) for case in context.cases]
    shown = ", ".join(f"{before:.1f} to {after:.1f}" for before, after in pairs[:4])
    return Finding(WARN if odd else PASS, float(odd), f"of {len(pairs)} cases; HD95 in mm {shown}")


@check(
    "C21",
    "comparable",
    "no larger than the usual L-inf attacks",
    "L2 over that of a whole volume moved by 8/255: warn > 1",
    needs=(
        is_noise,
        lambda context: "" if context.attack.radius is None else "bounded by eps, compared at equal eps",
    ),
    flagged=False,
)
def comparable(context: Context) -> Finding:
    ratios, shown = [], []
    for case in context.cases:
        found = measure(context.images(case)[0].cpu().numpy(), case.volume.image)
        ratios.append(found.l2 / (8 / 255 * case.images.numel() ** 0.5))
        shown.append(
            f"L-inf {found.linf * 255:.1f}/255, L2 {found.l2:.2f}, PSNR {found.psnr:.1f}, SSIM {found.ssim:.3f}"
        )
    detail = f"compare with others at matched L2 or SSIM only; {'; '.join(shown[:2])}"
    return Finding(grade(max(ratios), 1.0, np.inf), max(ratios), detail)


@check(
    "C22",
    "identity-control",
    "quantizing by nothing changes nothing",
    "change of Dice at q_min = q_max = 1e-3: fail > 0.002",
    needs=(lacks("q_max", "q_min"),),
)
def identity_control(context: Context) -> Finding:
    nothing = context.variant(q_min=1e-3, q_max=1e-3, steps=0)
    gaps = [abs(context.run(case, nothing).dice - context.clean(case).dice) for case in context.cases]
    worst = max(gaps)
    detail = "largest change of a case" + (
        ": the renormalization moves it, not the attack" if worst > 0.002 else ""
    )
    return Finding(grade(worst, 0.002, 0.002), worst, detail)


CHECKS = (clean_consistency, budget_audit, batch_invariance, metric_agreement, comparable, identity_control)
