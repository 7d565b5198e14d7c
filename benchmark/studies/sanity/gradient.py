"""Whether the input gradient says something about the network, or about rounding."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustvox.attacks import frozen
from robustvox.attacks.losses import LOSSES
from robustvox.models import SlidingWindow
from robustvox.models.precision import InPrecision

from ...craft.named import predict
from .base import FAIL, PASS, WARN, Finding, check
from .context import Case, CaseScore, Context, mean, no_gradient

NUDGE = 1e-7
"""Share by which every voxel moves: the last bit of float32."""

_UNSTABLE = 0.05  # zoo and paper networks at random weights stay below 0.01, but for one at 0.4
_GAIN = 0.02  # mean Dice that float64 gradients may win before the number under float32 ones is no worst case


@check(
    "C23",
    "gradient-stability",
    "the input gradient is more than rounding",
    f"relative change of the gradient when the image is multiplied by 1 + 1e-7: warn > {_UNSTABLE:.0%}, and fail if "
    f"float64 gradients then lower the mean Dice by > {_GAIN}",
    needs=(no_gradient,),
    runs=0.3,
)
def gradient_stability(context: Context) -> Finding:
    loss = str(context.value("loss", "dice"))
    narrow = max(_movement(context.predictor(case), case, loss, torch.float32) for case in context.cases)
    wide = max(_movement(_precise(context, case), case, loss, torch.float64) for case in context.cases)
    detail = (
        f"largest relative change of the gradient in float32; {wide:.1e} in float64{_reduced(context, loss)}"
    )
    if narrow <= _UNSTABLE:
        return Finding(PASS, narrow, detail)
    gain = mean([context.run(case).dice - _attacked(context, case) for case in context.cases])
    status = FAIL if not gain <= _GAIN else WARN
    return Finding(status, narrow, f"{detail}; gradients in float64 lower the mean Dice by {gain:.3f}")


def _movement(predictor: nn.Module, case: Case, loss: str, dtype: torch.dtype) -> float:
    """How far the gradient moves, relative to its norm; infinite for one that is not finite."""
    images = case.images.to(dtype)
    here, there = (_gradient(predictor, each, case, loss) for each in (images, images * (1 + NUDGE)))
    moved = (there - here).norm() / here.norm().clamp_min(torch.finfo(dtype).tiny)
    return float(moved) if torch.isfinite(moved) else float("inf")


def _gradient(predictor: nn.Module, images: Tensor, case: Case, loss: str) -> Tensor:
    with torch.enable_grad(), frozen(predictor):
        variable = images.clone().requires_grad_()
        value = LOSSES[loss](predictor(variable), case.labels, None).sum()
        return torch.autograd.grad(value, variable)[0]


def _reduced(context: Context, loss: str) -> str:
    """What a precision below float32 changes, in words; nothing where the network computes in float32."""
    names = {m.precision for m in context.predictor(context.cases[0]).modules() if isinstance(m, InPrecision)}
    if not names:
        return ""
    moved, dice = [], []
    for case in context.cases:
        full = _in_float32(context.predictor(case))
        wanted, found = (_gradient(each, case.images, case, loss) for each in (full, context.predictor(case)))
        moved.append(float((found - wanted).norm() / wanted.norm().clamp_min(torch.finfo(wanted.dtype).tiny)))
        with frozen(full):
            labels = predict(replace(context.bound(case), predictor=full), case.images)
        dice.append(abs(CaseScore(context.score_labels(case, labels)).dice - context.clean(case).dice))
    by = f"by up to {max(moved):.1e} and the clean Dice by {mean(dice):.4f}"
    return f"; {', '.join(sorted(names))} moves it {by} from those of float32"


def _in_float32(predictor: nn.Module) -> nn.Module:
    """A copy whose windows go through their networks in float32."""
    with frozen(predictor):
        full = copy.deepcopy(predictor)
    for window in [module for module in full.modules() if isinstance(module, SlidingWindow)]:
        if isinstance(window.network, InPrecision):
            window.configure(network=window.network.network)
    return full


class _Precise(nn.Module):
    """Takes and gives float32 as the network does, and computes everything between in float64."""

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor(images.double()).to(images.dtype)


def _precise(context: Context, case: Case) -> nn.Module:
    """The predictor of a case in float64; a copy, made anew for each so that there is one at a time."""
    predictor = context.predictor(case)
    with frozen(predictor):
        return copy.deepcopy(predictor).double()


def _attacked(context: Context, case: Case) -> float:
    """Dice of the float32 network after the same attack, start included, with float64 gradients."""
    images = context.craft(case, predictor=_Precise(_precise(context, case)))
    return CaseScore(context.score(case, images)).dice


CHECKS = (gradient_stability,)
