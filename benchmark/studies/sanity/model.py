"""Checks of the model alone: does its forward pass allow the attack to mean anything?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robustvox.attacks import Uniform, frozen
from robustvox.attacks.losses import LOSSES

from ...specs.protocols import DEFAULT_PROTOCOL
from .base import FAIL, PASS, WARN, Finding, check, grade
from .context import Case, Context, no_gradient

_REPEATS = 5


_SATURATED = 1 - 1e-6


@check(
    "C7",
    "gradient-health",
    "input gradients are there",
    "share of exactly zero gradients: warn > 10%, fail > 90%; fail on a non-finite one",
    needs=(no_gradient,),
    runs=0.3,
)
def gradient_health(context: Context) -> Finding:
    zero = broken = saturated = 0.0
    losses = dict.fromkeys([str(context.value("loss", "dice")), "ce"])
    noise = Uniform(eps=8 / 255 if context.attack.radius is None else context.attack.radius)
    for case in context.cases:
        start = noise(context.predictor(case), case.images, case.labels, generator=context.generator(case))
        for images in (case.images, start):
            for loss in losses:
                gradient, share = _gradient(context, case, images, loss)
                zero = max(zero, float((gradient == 0).float().mean()))
                broken = max(broken, float((~torch.isfinite(gradient)).float().mean()))
                saturated = max(saturated, share)
    detail = (
        f"largest shares at the volume and at a random start, losses {' and '.join(losses)}: "
        f"{zero:.1%} zero, {broken:.1%} not finite; {saturated:.1%} of voxels have p_y > 1 - 1e-6"
    )
    return Finding(FAIL if broken else grade(zero, 0.1, 0.9), zero, detail)


def _gradient(context: Context, case: Case, images: Tensor, loss: str) -> tuple[Tensor, float]:
    """Gradient of a loss at the images, zero where none arrives, and the share of saturated voxels."""
    with torch.enable_grad(), frozen(context.predictor(case)):
        images = images.clone().requires_grad_()
        logits = context.predictor(case)(images)
        value = LOSSES[loss](logits, case.labels, None).sum()
        known = value.requires_grad and torch.autograd.grad(value, images, allow_unused=True)[0]
    probability = torch.softmax(logits.detach(), 1).gather(1, case.labels)
    gradient = known if isinstance(known, Tensor) else torch.zeros_like(images)
    return gradient.detach(), float((probability > _SATURATED).float().mean())


@check(
    "C9",
    "randomness",
    "equal inputs give equal outputs",
    "5 forwards: fail if logits differ by > 1e-4 of the largest; warn if only predictions flip",
)
def randomness(context: Context) -> Finding:
    change = flips = 0.0
    for case in context.cases:
        first, *others = (_forward(context, case) for _ in range(_REPEATS))
        for other in others:
            change = max(change, _relative(other, first))
            flips = max(flips, float((other.argmax(1) != first.argmax(1)).float().mean()))
    status = FAIL if not change <= 1e-4 else WARN if flips else PASS
    detail = f"relative change of the logits over {_REPEATS} forwards; {flips:.3%} of voxels change class"
    return Finding(
        status, change, detail + ("; average gradients over draws (EOT)" if status == FAIL else "")
    )


@check("C10", "logits", "the model returns logits", "fail if values lie in [0, 1] and sum to 1 over classes")
def raw_logits(context: Context) -> Finding:
    furthest, inside = 0.0, True
    for case in context.cases:
        output = _forward(context, case)
        furthest = max(furthest, float((output.sum(1) - 1).abs().max()))
        inside &= bool(output.min() >= 0 and output.max() <= 1)
    probabilities = inside and furthest < 1e-4
    detail = "probabilities: remove the softmax, it flattens gradients" if probabilities else "no softmax"
    return Finding(FAIL if probabilities else PASS, furthest, f"largest |sum over classes - 1|; {detail}")


@check(
    "C11",
    "class-count",
    "model, dataset and loss agree on the classes",
    "fail on another or too small number",
)
def class_count(context: Context) -> Finding:
    classes = _forward(context, context.cases[0]).shape[1]
    wanted, least = context.num_classes, context.attack.min_classes
    detail = f"classes of the model; the dataset has {wanted}, the attack needs {least}"
    return Finding(PASS if classes == wanted and classes >= least else FAIL, float(classes), detail)


@check(
    "C12",
    "test-time-optimization",
    "a plain forward takes no gradients",
    "fail on any autograd call during a forward",
)
def inner_optimization(context: Context) -> Finding:
    with _counted_gradients() as calls:
        _forward(context, context.cases[0])
    count = max(calls.values())
    detail = "the model optimizes while it predicts: attack through its inner loop" if count else ""
    return Finding(FAIL if count else PASS, float(count), f"gradient calls in one forward {detail}".strip())


@contextmanager
def _counted_gradients() -> Iterator[dict[str, int]]:
    """Counts calls of autograd by entry point; what was replaced is restored on any exit."""
    places = [(torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")]
    if hasattr(torch.autograd, "_engine_run_backward"):
        # Where all of them end, also a `grad` that somebody imported by name.
        places.append((torch.autograd, "_engine_run_backward"))
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    calls = dict.fromkeys((f"{owner.__name__}.{name}" for owner, name in places), 0)

    def counting(label: str, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[label] += 1
            return original(*arguments, **options)

        return call

    try:
        for owner, name, original in originals:
            setattr(owner, name, counting(f"{owner.__name__}.{name}", original))
        yield calls
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


@check(
    "C16",
    "adaptivity",
    "the attack sees the predictor that is scored",
    "logits with and without gradients differ by at most 1e-4 of the largest",
    needs=(no_gradient,),
)
def adaptivity(context: Context) -> Finding:
    change = 0.0
    for case in context.cases:
        with torch.enable_grad(), frozen(context.predictor(case)):
            attacked = context.predictor(case)(case.images.clone().requires_grad_()).detach()
        change = max(change, _relative(attacked, _forward(context, case)))
    status = FAIL if not change <= 1e-4 else PASS
    detail = "the model computes something else under attack" if status == FAIL else "one predictor for both"
    if context.protocol != DEFAULT_PROTOCOL:
        status, detail = (
            max(status, WARN, key=(PASS, WARN, FAIL).index),
            f"{context.protocol} does not promise it",
        )
    return Finding(status, change, f"relative change of the logits when gradients are on; {detail}")


@torch.no_grad()
def _forward(context: Context, case: Case) -> Tensor:
    """Logits as they are scored."""
    with frozen(context.predictor(case)):
        output = context.predictor(case)(case.images)
    if not torch.isfinite(output).all():
        raise ValueError("model output: expected finite logits, got NaN or infinity. Check its weights")
    return output


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(torch.finfo(other.dtype).tiny))


CHECKS = (gradient_health, randomness, raw_logits, class_count, inner_optimization, adaptivity)
