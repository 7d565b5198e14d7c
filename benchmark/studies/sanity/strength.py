"""Checks of strength: is the attack as strong as its budget allows, on this model?"""

from __future__ import annotations

import itertools
import math

from robustvox.attacks import FGSM, GN, Square, Uniform

from ...craft.named import NamedAttack
from .base import FAIL, PASS, WARN, Finding, check, grade
from .context import Case, Context, is_noise, lacks, mean, no_eps, no_gradient, no_radius

CURVE = {
    "eps": tuple(level / 255 for level in (1, 2, 4, 8, 16, 32, 255)),
    "std": tuple(level / 255 for level in (1, 2, 4, 8, 16, 32, 255)),
    "q_max": (1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 80.0),
    "rho": (0.1, 0.2, 0.4, 0.8),
}
"""Budgets of the curve; where there is a budget of zero, the clean volume stands for it."""


LOSSES = ("ce", "mask_ce_balanced", "js", "dice")


_TOLERANCE = 0.002  # Dice; below this two attacks are equally strong, as AutoAttack says of its Square probe


@check(
    "C2",
    "budget-curve",
    "more budget, less Dice",
    "largest rise of the mean: warn > 0.005, fail > 0.02",
    needs=(lambda context: "" if context.knob else "has no budget to vary",),
    runs=7,
)
def budget_curve(context: Context) -> Finding:
    knob = context.knob
    lowest = context.value("q_min", 0.0) if knob == "q_max" else 0.0
    levels = sorted({*CURVE[knob], float(context.value(knob))} - {0.0})
    points = [(level, context.mean(context.at(level))) for level in levels if level >= lowest]
    if knob != "q_max":
        points.insert(0, (0.0, context.clean_mean()))
    values = [value for _, value in points]
    rise = max((after - before for before, after in itertools.pairwise(values)), default=0.0)
    scale = 255 if knob in ("eps", "std") else 1
    shown = ", ".join(f"{level * scale:g}: {value:.3f}" for level, value in points)
    return Finding(
        grade(rise, 0.005, 0.02), max(rise, 0.0), f"Dice at {knob}{' * 255' if scale > 1 else ''} {shown}"
    )


@check(
    "C3",
    "unbounded",
    "without a bound nothing is left",
    "mean Dice at eps = 1: warn > 0.01, fail > 0.05",
    needs=(is_noise, no_eps),
    runs=0.2,
)
def unbounded(context: Context) -> Finding:
    dice = context.mean(context.at(1.0))
    detail = "mean Dice where every image is allowed"
    return Finding(
        grade(dice, 0.01, 0.05), dice, detail + ("" if dice <= 0.05 else ": gradients or steps fail")
    )


@check(
    "C4",
    "iterative",
    "never weaker than one step",
    "cases where FGSM is stronger: warn > 0, fail when by > 0.005 Dice",
    needs=(
        no_gradient,
        no_eps,
        lambda context: "is the single step" if isinstance(context.attack, FGSM) else "",
    ),
)
def iterative(context: Context) -> Finding:
    loss = {"loss": context.value("loss")} if context.has("loss") else {}
    single = context.other("fgsm", FGSM(eps=context.value("eps"), **loss))
    gaps = _gaps(context, single)
    violations = sum(gap > 0 for gap in gaps)
    status = PASS if not violations else grade(max(gaps), 0.0, 0.005)
    detail = _side_by_side(context, "FGSM", single)
    return Finding(status, float(violations), detail)


@check(
    "C5",
    "beats-noise",
    "stronger than noise of its size",
    "mean Dice below the strongest noise by > 0.002, else warn; fail when above it by > 0.002",
    needs=(is_noise,),
)
def beats_noise(context: Context) -> Finding:
    radius = context.attack.radius
    if radius is None:
        controls = {"gaussian of the same L2": mean([_matched(context, case) for case in context.cases])}
    else:
        noises = {
            "uniform": context.other("uniform", Uniform(eps=radius)),
            "corners": context.other("uniform", Uniform(eps=radius, corners=True)),
            "gaussian": context.other("gn", GN(std=radius)),
        }
        controls = {name: context.mean(noise) for name, noise in noises.items()}
    margin = min(controls.values()) - context.mean()
    shown = ", ".join(f"{name} {dice:.3f}" for name, dice in controls.items())
    return Finding(grade(-margin, -_TOLERANCE, _TOLERANCE), margin, f"{context.mean():.3f} against {shown}")


def _matched(context: Context, case: Case) -> float:
    """Dice under Gaussian noise as far from the clean volume as the attack went."""
    distance = float((context.images(case) - case.images).norm())
    noise = GN(std=distance / math.sqrt(case.images.numel()))
    return context.run(case, context.other("gn", noise)).dice


@check(
    "C6",
    "convergence",
    "twice the steps change nothing",
    "change of mean Dice: warn >= 0.01, fail >= 0.05; fail if the start is the best point of every case",
    needs=(no_gradient, lacks("steps")),
    runs=3,
)
def convergence(context: Context) -> Finding:
    steps = int(context.value("steps"))
    before, after = context.mean(), context.mean(context.variant(steps=2 * steps))
    runs = [context.run(case) for case in context.cases]
    first = sum(run.best_step == 0 for run in runs)
    last = sum(run.best_step == run.last_step for run in runs)
    status = grade(abs(after - before), math.nextafter(0.01, 0), math.nextafter(0.05, 0))
    if first:
        status = FAIL if first == len(runs) else max(status, WARN, key=(PASS, WARN, FAIL).index)
    detail = (
        f"{before:.3f} after {steps} steps, {after:.3f} after {2 * steps}; the best point is the last in "
        f"{last} and the start in {first} of {len(runs)} cases"
    )
    return Finding(status, abs(after - before), detail)


@check(
    "C8",
    "gradient-free",
    "no query attack does better",
    "cases that Square breaks further: fail when by > 0.002 Dice on any",
    needs=(no_gradient, no_radius),
    per_query=1 / 45,
)
def gradient_free(context: Context) -> Finding:
    probe = context.other("square", Square(eps=context.attack.radius or 0.0, queries=context.queries))
    gaps = _gaps(context, probe)
    worse = sum(gap > _TOLERANCE for gap in gaps)
    detail = _side_by_side(context, "Square", probe)
    few = "" if context.queries >= 1000 else f" with only {context.queries} queries"
    detail += f"{few}{': gradients mislead the attack' if worse else ''}"
    return Finding(FAIL if worse or not gaps else PASS, float(worse), detail)


@check(
    "C14",
    "step-size",
    "the step size hardly matters",
    "spread of mean Dice over alpha = eps/8, eps/4, eps/2: warn >= 0.02, fail when the attack's own is 0.05 behind",
    needs=(no_gradient, no_eps, lacks("alpha")),
    runs=2,
)
def step_size(context: Context) -> Finding:
    eps = float(context.value("eps"))
    sweep = {f"eps/{part}": context.mean(context.variant(alpha=eps / part)) for part in (8, 4, 2)}
    best = min(sweep, key=lambda name: sweep[name])
    spread = max(sweep.values()) - sweep[best]
    behind = context.mean() - sweep[best]
    status = FAIL if behind > 0.05 else grade(spread, math.nextafter(0.02, 0), 1.0)
    shown = ", ".join(f"{name} {dice:.3f}" for name, dice in sweep.items())
    return Finding(status, spread, f"{shown}; best {best}, the attack itself {context.mean():.3f}")


@check(
    "C15",
    "loss-diversity",
    "other losses find nothing new",
    "cases that one loss alone brings below half the clean Dice, or own loss 0.02 behind the worst per case: warn",
    needs=(no_gradient, lacks("loss")),
    runs=3,
)
def loss_diversity(context: Context) -> Finding:
    table = {
        loss: [context.run(case, context.variant(loss=loss)).dice for case in context.cases]
        for loss in LOSSES
    }
    worst = mean([min(dice) for dice in zip(*table.values(), strict=True)])
    broken = [
        sum(dice < context.clean(case).dice / 2 for dice in column)
        for case, column in zip(context.cases, zip(*table.values(), strict=True), strict=True)
    ]
    alone = broken.count(1)
    status = WARN if alone or not context.mean() - worst <= 0.02 else PASS
    shown = ", ".join(f"{loss} {mean(dice):.3f}" for loss, dice in table.items())
    detail = f"cases broken by one loss alone; {shown}, worst per case {worst:.3f}, own {context.mean():.3f}"
    return Finding(status, float(alone), detail)


@check(
    "C17",
    "reference-strength",
    "breaks an undefended model",
    "mean Dice at 8/255: warn >= 0.2; says nothing about a defended model",
    needs=(is_noise, no_eps),
    runs=0.1,
    flagged=False,
)
def reference_strength(context: Context) -> Finding:
    dice = context.mean(context.at(8 / 255))
    return Finding(
        PASS if dice < 0.2 else WARN, dice, f"mean Dice at 8/255, clean {context.clean_mean():.3f}"
    )


def _gaps(context: Context, other: NamedAttack) -> list[float]:
    """By how much another attack breaks a case further."""
    return [context.run(case).dice - context.run(case, other).dice for case in context.cases]


def _side_by_side(context: Context, name: str, other: NamedAttack) -> str:
    means = f"mean Dice {context.mean():.3f}, {name} {context.mean(other):.3f}"
    return f"of {len(context.cases)} cases; {means}"


CHECKS = (
    budget_curve,
    unbounded,
    iterative,
    beats_noise,
    convergence,
    gradient_free,
    step_size,
    loss_diversity,
    reference_strength,
)
