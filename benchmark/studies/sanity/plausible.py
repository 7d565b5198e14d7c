"""Whether a model is what it claims, answers nearly equal volumes nearly equally, and hides behind no scale or chance."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.attacks import frozen
from robustvox.attacks.losses import LOSSES

from ...craft.named import predict
from .base import FAIL, PASS, WARN, Finding, check, grade
from .context import Case, CaseScore, Context, mean, no_gradient

_ABOVE_CHANCE = 0.1  # Dice; random weights that meet the reference by accident
_NARROW, _WIDE = 0.05, 0.1  # Dice; the spread of a few cases around the claim of many
_FILLED = 0.2  # of the window; below it a network sees mostly padding
_NOISE = 1e-3  # of the intensity range: a quarter of a grey level
_REPEATS = 3

_ORDER = (PASS, WARN, FAIL)


@check(
    "C0",
    "plausibility",
    "the clean score is what a trained network reaches",
    f"fail unless mean clean Dice is {_ABOVE_CHANCE} above the same network with new random weights; below the "
    f"checkpoint's own claim: warn > {_NARROW}, fail > {_WIDE}; warn if volumes fill < {_FILLED:.0%} of the window",
    runs=0.2,
)
def plausibility(context: Context) -> Finding:
    clean = context.clean_mean()
    status, said = PASS, [f"clean Dice {clean:.3f}"]
    chance = _with_new_weights(context)
    if chance is not None:
        said.append(f"with new random weights {chance:.3f}")
        status = PASS if clean > chance + _ABOVE_CHANCE else FAIL
    claimed = context.model.claimed
    if claimed is not None:
        said.append(f"the checkpoint claims {claimed:.3f}")
        status = _worse(status, grade(claimed - clean, _NARROW, _WIDE))
    filled = [share for case in context.cases if (share := context.model.filled(case.volume)) is not None]
    if filled:
        said.append(f"volumes fill {min(filled):.0%} of the window")
        status = _worse(status, PASS if min(filled) >= _FILLED else WARN)
    return Finding(status, clean, "; ".join(said))


def _with_new_weights(context: Context) -> float | None:
    """Mean clean Dice after every layer that can was initialized again; None where none can."""
    scores = []
    for case in context.cases:
        with frozen(context.predictor(case)):
            other = copy.deepcopy(context.predictor(case))
        resets: list[Callable[..., object]] = [
            reset for layer in other.modules() if callable(reset := getattr(layer, "reset_parameters", None))
        ]
        if not resets:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            for reset in resets:
                reset()
        with torch.no_grad(), frozen(other):
            # New weights may give anything, NaN too: whatever class that leaves is as random as another.
            labels = other(case.images).nan_to_num().argmax(1)[0].cpu().numpy()
        scores.append(CaseScore(context.score_labels(case, labels)).dice)
    return mean(scores)


@check(
    "C24",
    "gradient-chance",
    "equal inputs give equal gradients",
    f"{_REPEATS} gradients of one volume: relative difference warn > 0.1%, fail > 5%",
    needs=(no_gradient,),
    runs=0.2,
)
def gradient_chance(context: Context) -> Finding:
    loss = str(context.value("loss", "dice"))
    furthest = 0.0
    for case in context.cases:
        first, *others = (_gradient(context, case, loss) for _ in range(_REPEATS))
        scale = first.norm().clamp_min(torch.finfo(first.dtype).tiny)
        moved = [float((other - first).norm() / scale) for other in others]
        furthest = max(furthest, *(change if math.isfinite(change) else math.inf for change in moved))
    status = grade(furthest, 1e-3, 0.05)
    detail = f"relative difference over {_REPEATS} gradients"
    return Finding(status, furthest, detail + ("; average over draws (EOT)" if status == FAIL else ""))


def _gradient(context: Context, case: Case, loss: str) -> Tensor:
    with torch.enable_grad(), frozen(context.predictor(case)):
        images = case.images.clone().requires_grad_()
        value = LOSSES[loss](context.predictor(case)(images), case.labels, None).sum()
        found = torch.autograd.grad(value, images, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(images) if found is None else found.detach()


@check(
    "C25",
    "detector",
    "nearly equal volumes get nearly equal answers",
    "Dice between the answers to a volume and to it with noise of 1e-3 or shifted by a voxel: warn < 0.9, fail < 0.75",
    runs=0.2,
)
def detector(context: Context) -> Finding:
    agreed: dict[str, list[float]] = {"noise": [], "shift": []}
    for case in context.cases:
        answer = _labels(context, case, case.images)
        noise = torch.rand(case.images.shape, generator=context.generator(case)).to(case.images) * 2 - 1
        moved = (case.images + _NOISE * noise).clamp(0, 1)
        agreed["noise"].append(_agreement(_labels(context, case, moved), answer))
        for axis in range(2, case.images.ndim):
            shifted = _labels(context, case, case.images.roll(1, axis))
            # The first slice came from the other end; the rest is the volume one voxel on.
            here = np.take(shifted, range(1, shifted.shape[axis - 2]), axis - 2)
            there = np.take(answer, range(answer.shape[axis - 2] - 1), axis - 2)
            agreed["shift"].append(_agreement(here, there))
    means = {what: mean(values) for what, values in agreed.items()}
    lowest = min(means.values())
    shown = ", ".join(f"{what} {value:.3f}" for what, value in means.items())
    return Finding(
        grade(1 - lowest, 0.1, 0.25), lowest, f"mean foreground Dice with the first answer: {shown}"
    )


def _labels(context: Context, case: Case, images: Tensor) -> np.ndarray:
    with frozen(context.predictor(case)):
        return predict(context.bound(case), images)


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Dice over the foreground classes that either has; 1 where neither has any."""
    classes = [k for k in np.union1d(np.unique(one), np.unique(other)) if k]
    pairs = [(one == k, other == k) for k in classes]
    return mean([2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in pairs]) if pairs else 1.0


@check(
    "C27",
    "gradient-truth",
    "the gradient is that of the answer",
    "rise of the loss along the gradient's sign, 1e-3 to both sides, over what the gradient says: warn outside 1/2 to 2, "
    "fail outside 1/5 to 5",
    needs=(no_gradient,),
    runs=0.2,
)
def gradient_truth(context: Context) -> Finding:
    loss = str(context.value("loss", "dice"))
    ratios = []
    for case in context.cases:
        gradient = _gradient(context, case, loss)
        step = _NOISE * gradient.sign()
        with torch.no_grad(), frozen(context.predictor(case)):
            # Not clamped: a derivative goes both ways at the edge of the range too.
            above, below = (
                float(
                    LOSSES[loss](context.predictor(case)(case.images + way * step), case.labels, None).sum()
                )
                for way in (1, -1)
            )
        promised = 2 * float((step * gradient).sum())
        ratios.append((above - below) / promised if promised else float("nan"))
    furthest = max(map(_off, ratios))
    shown = ", ".join(f"{ratio:.3g}" for ratio in ratios)
    return Finding(
        grade(furthest, math.log(2), math.log(5)),
        max(ratios, key=_off),
        f"ratio per case {shown}; 1 is exact",
    )


def _off(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf


class _Rescaled(nn.Module):
    """The same answers with logits of another spread."""

    def __init__(self, predictor: nn.Module, scale: float) -> None:
        super().__init__()
        self.predictor, self.scale = predictor, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor(images) * self.scale


@check(
    "C26",
    "logit-scale",
    "the scale of the logits protects nothing",
    "mean Dice that the attack loses more where logits are divided by their spread: warn > 0.02, fail > 0.05",
    needs=(no_gradient,),
    runs=1.5,
)
def logit_scale(context: Context) -> Finding:
    scales, gains = [], []
    for case in context.cases:
        predictor = context.predictor(case)
        with torch.no_grad(), frozen(predictor):
            spread = float(predictor(case.images).double().std())
        if not 0 < spread < float("inf"):
            return Finding(FAIL, None, f"logits of {case.id} have the spread {spread}")
        images = context.craft(case, predictor=_Rescaled(predictor, _SPREAD / spread))
        gains.append(context.run(case).dice - CaseScore(context.score(case, images)).dice)
        scales.append(spread)
    gain = mean(gains)
    detail = f"logits spread by {min(scales):.3g} to {max(scales):.3g}; attacked with a spread of {_SPREAD:g}"
    return Finding(grade(gain, 0.02, 0.05), gain, detail)


_SPREAD = 5.0


def _worse(one: str, other: str) -> str:
    return max(one, other, key=_ORDER.index)


CHECKS = (plausibility, gradient_chance, detector, logit_scale, gradient_truth)
