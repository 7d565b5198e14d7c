"""Attacks at equal distortion: the knob of one is searched, per case, until it moves the volume as far as another.

VAFA's q_max, SA2's rho and PGD's eps are not comparable. `Matched` compares families where they can be: at the
same measured L2 or SSIM. In a spec it is written ``vafa:block_size=8@l2=pgd:eps=8/255``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustvox.attacks import Attack, StepInfo
from robustvox.attacks import checks as refuse
from robustvox.attacks.published import LastIterate
from robustvox.attacks.task import Task

from ..metrics.distortion import Distortion, measure
from ..specs import knobs
from ..specs.knobs import KNOBS, MEASURES, TOLERANCE
from .search import KnobSearch

ATTEMPTS = 12  # runs of one attack on one volume, at most


_NOTHING = 1e-12  # a reference that moves less has no distortion to match


@dataclass(frozen=True)
class Match:
    """How one search ended.

    Attributes:
        knob: name of the field that was searched.
        value: its value in the run that was kept; 0 where the reference changed nothing.
        distortion: of the volume that was kept: L2 in intensity units, or 1 - SSIM.
        reference: the same of the reference.
        runs: how often the attack ran.
        matched: whether `distortion` lies within the tolerance below `reference`.
    """

    knob: str
    value: float
    distortion: float
    reference: float
    runs: int
    matched: bool


@dataclass(frozen=True, kw_only=True)
class Matched(Attack):
    """An attack whose knob is searched, per sample, until it distorts as much as a reference attack.

    Runs the reference and measures d_ref, its L2 or 1 - SSIM, as the tables do. Then runs `attack` at up to 12
    values of its knob until its own distortion d fulfills

        (1 - tolerance) * d_ref <= d <= d_ref

    First the attack's own value, then values extrapolated by d ~ knob (L2) or d ~ knob^2 (1 - SSIM) until d_ref
    is bracketed, then interpolation and bisection in turn, on the logarithm of the knob. A matched
    attack never gets more than the reference: if no value fulfills the condition, the run with the largest d <= d_ref
    is kept, or, if all lie above, the one with the smallest; either is flagged ``unmatched`` in the row.
    The distortion of a best iterate may jump as the knob moves, so that this can happen between two values.

    The knob is the first of `q_max`, `rho`, `std` and `eps` that holds a number > 0, at most 2000, 1, 1, 1.
    `at_knob` says what follows it. All runs of a sample use its one seed, so the result is exactly what
    `at_knob(attack, value)` gives alone. How a sample's search ended is a `Match` among the notes of the task. Forwards, backwards and seconds count everything: one run of the
    reference and, as a rule, two to six of the attack. `on_step` sees the points of the run that was kept, one
    sample after another.

    Source: none. Frequency attacks and L-inf attacks share no nominal budget; this gives them a measured one.

    Args:
        attack: what is matched; an attack with a knob.
        reference: sets the distortion.
        on: "l2" or "ssim".
        tolerance: how far below the reference the distortion may stay, relative, in [0.0001, 0.5].

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the adversarial images.
    Raises: ValueError: if `attack` has no knob, one of the two is matched itself, or a value is out of range.

    Example:
        >>> from robustvox.attacks import GN, Uniform
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.ones(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> reference = Uniform(eps=4 / 255)
        >>> noisy = Matched(attack=GN(), reference=reference)(torch.nn.Conv3d(1, 2, 1), images, labels)
        >>> moved = (reference(torch.nn.Conv3d(1, 2, 1), images, labels) - images).norm()
        >>> bool(0.98 <= (noisy - images).norm() / moved <= 1)
        True
    """

    attack: Attack
    reference: Attack
    on: str = "l2"
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, part in (("attack", self.attack), ("reference", self.reference)):
            if not isinstance(part, Attack) or isinstance(part, Matched):
                raise ValueError(
                    f"{name}: expected an attack that is not matched itself, got {type(part).__name__}. "
                    "Give the plain attack"
                )
        find_knob(self.attack)
        refuse.choice("on", self.on, MEASURES)
        refuse.real("tolerance", self.tolerance, 1e-4, 0.5, hint="Write 0.02 for 2 percent")

    @property
    def min_classes(self) -> int:
        return max(self.attack.min_classes, self.reference.min_classes)

    def at_spacing(self, spacing_mm: Sequence[float]) -> Matched:
        parts = {name: getattr(self, name).at_spacing(spacing_mm) for name in ("attack", "reference")}
        return replace(self, **parts)

    def accept_targets(
        self, targets: Tensor | None, images: Tensor, labels: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        self.reference.accept_targets(targets, images, labels, mask)
        return self.attack.accept_targets(targets, images, labels, mask)

    def perturb(self, task: Task) -> Tensor:
        return torch.cat([self._match(task, index) for index in range(task.images.shape[0])])

    def _match(self, task: Task, index: int) -> Tensor:
        """The search on one sample."""
        knob = find_knob(self.attack)
        clean = task.images[index : index + 1]
        target = self._distortion(_run(self.reference, task, index)[0], clean)
        found = Match(knob, 0.0, 0.0, target, 0, matched=True)
        images, steps = clean, list[StepInfo]()
        if target > _NOTHING:
            search = KnobSearch(
                getattr(self.attack, knob), KNOBS[knob].largest, target, self.tolerance, MEASURES[self.on]
            )
            runs = 0
            while runs < ATTEMPTS and (value := search.propose()) is not None:
                candidate, shown = _run(at_knob(self.attack, value), task, index)
                runs += 1
                if search.tell(value, self._distortion(candidate, clean)):
                    images, steps = candidate, shown
            value, distortion = search.best
            found = Match(knob, value, distortion, target, runs, search.matched)
        if task.on_step is not None:
            for info in steps:
                task.on_step(info)
        task.notes.append(found)
        return images

    def _distortion(self, images: Tensor, clean: Tensor) -> float:
        moved: Distortion = measure(images[0], clean[0])
        return moved.l2 if self.on == "l2" else 1 - moved.ssim


def _run(attack: Attack, task: Task, index: int) -> tuple[Tensor, list[StepInfo]]:
    """One attack on one sample as if it had been called alone, and the steps it showed."""
    shown = list[StepInfo]()
    alone = task.sample(index, on_step=shown.append, min_classes=attack.min_classes)
    return attack.audited(alone, alone.images), shown


def find_knob(attack: Attack) -> str:
    """Name of the field that scales an attack's distortion.

    Raises:
        ValueError: if it has none that holds a number > 0.

    Example:
        >>> from robustvox.attacks import VAFA
        >>> find_knob(VAFA(eps=8 / 255))
        'q_max'
    """
    knob = knobs.find_knob({name: getattr(attack, name, None) for name in KNOBS})
    if knob and getattr(attack, knob) > 0:
        return knob
    if isinstance(attack, LastIterate):
        raise ValueError(
            "attack: expected one that keeps its best iterate, got the last one; ask for iterate=best, or for the "
            "protocol with last_iterate=false"
        )
    raise ValueError(
        f"attack: expected {type(attack).__name__} to have a knob > 0 among {', '.join(KNOBS)}, got none. "
        "Without one it cannot be matched: leave it out, or set the knob"
    )


def at_knob(attack: Attack, value: float) -> Attack:
    """The attack with another value of its knob, and of what has to follow.

    `alpha` keeps its ratio to `eps` (at most 1) and `beta` its ratio to `rho`, also where they were given and not
    derived; `q_min` is lowered to `q_max` where it would lie above. VAFA's step of one quantization unit has no
    field and stays: the larger q_max, the less freedom the same number of steps has.

    Example:
        >>> from robustvox.attacks import PGD
        >>> at_knob(PGD(eps=0.1, alpha=0.02), 0.2).alpha
        0.04
    """
    knob = find_knob(attack)
    own = getattr(attack, knob)
    if value == own:
        return attack
    changes: dict[str, float] = {knob: value}
    follows = KNOBS[knob].step
    step = getattr(attack, follows, None) if follows else None
    if step is not None:
        changes[follows] = min(step * (value / own), 1.0) if knob == "eps" else step * (value / own)
    if knob == "q_max" and getattr(attack, "q_min", 0.0) > value:
        changes["q_min"] = value
    with warnings.catch_warnings():
        # What there is to warn of was said when the attack itself was built.
        warnings.simplefilter("ignore")
        return replace(attack, **changes)
