"""Defences: what a training step minimizes in the place of the plain loss. A registry, like attacks and models.

To add one, write its class and its row in :data:`DEFENCES`; ``train --defence`` and the contract tests take it from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustvox.attacks.base import ball

from ..craft.named import NamedAttack
from ..specs.spec import Spec, UsageError, canonical, match, normalize
from .consistency import Consistency
from .corruptions import corrupt
from .defence import Defence, Mixed, Natural, in_range, is_idle
from .losses import divergence, spectral_distance
from .step import Step


@dataclass(frozen=True, kw_only=True)
class _Attacked(Mixed):
    """Windows that an attack of the registry changes."""

    attack: NamedAttack

    @property
    def radius(self) -> float | None:
        return self.attack.attack.radius

    def change(self, step: Step, which: list[int]) -> Tensor | None:
        return None if is_idle(self.attack.attack) else step.attacked(self.attack.attack, which)


@dataclass(frozen=True, kw_only=True)
class PGDTraining(_Attacked):
    """Adversarial training: half of the windows attacked, half clean.

    Source: Madry et al., ICLR 2018, arXiv 1706.06083; the half that stays clean as in Hanif et al., MICCAI 2023,
    arXiv 2307.07269.
    Differs from the source: a window is attacked or clean, where the latter takes both losses of the same windows; the
    attack runs in eval mode on frozen weights.

    Args:
        attack: inside; any of the registry.
    """

    inner: ClassVar[str] = "pgd:eps=8/255,loss=dice_ce,steps=3"


@dataclass(frozen=True, kw_only=True)
class Noise(_Attacked):
    """Control: random signs of the same size as the attack, which know nothing of the network.

    Source: none, ours; what adversarial training gains must be more than this.

    Args:
        attack: any that takes no gradient.
    """

    inner: ClassVar[str] = "uniform:corners=true,eps=8/255"


@dataclass(frozen=True, kw_only=True)
class Corrupt(Mixed):
    """Control: corruptions that scanners make, blur, gamma, bias field, ringing and Rician noise.

    Source: none, ours; see :mod:`~robustvox.benchmark.training.corruptions`.
    """

    def change(self, step: Step, which: list[int]) -> Tensor | None:
        return torch.stack([corrupt(step.images[i], step.generator(step.windows.draws[i])) for i in which])


@dataclass(frozen=True, kw_only=True)
class Trades(Defence):
    """TRADES: the plain loss, and how far predictions move under an attack that only moves them.

    L(f(x), y) + beta KL(f(x) || f(x')), x' by PGD on the divergence itself from x + 0.001 N(0, 1).

    Source: Zhang et al., ICML 2019, arXiv 1901.08573.
    Differs from the source: the divergence is summed over classes and averaged over voxels, see
        :func:`~robustvox.benchmark.training.losses.divergence`; the plain loss is the training's own.

    Args:
        beta: weight of the divergence, >= 0; 0 is plain training.
        eps, steps, alpha: of the attack inside; alpha None as in `PGD`.
    """

    beta: float = 6.0
    eps: float = 8 / 255
    steps: int = 3
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("beta", self.beta, 0.0)
        Consistency(eps=self.eps, steps=self.steps, alpha=self.alpha)

    @property
    def radius(self) -> float:
        return self.eps

    def loss(self, step: Step) -> Tensor:
        attack = Consistency(eps=self.eps, steps=self.steps, alpha=self.alpha)
        if self.beta == 0 or is_idle(attack):
            return step.loss(step.images)
        every = range(len(step.images))
        moved = step.replaced(every, step.attacked(attack, every))
        clean = step.network(step.images)
        apart = divergence(clean, step.network(moved), step.counted)
        step.gradients.outer += len(moved)
        return step.loss_of(clean) + self.beta * apart.mean()


@dataclass(frozen=True, kw_only=True)
class Vaft(Defence):
    """VAFT: clean and attacked windows, and how far the spectrum of the logits moves between them.

    L(f(x), y) + L(f(x'), y) + frequency * L_fr(f(x), f(x')), x' by VAFA.

    Source: Hanif et al., MICCAI 2023, arXiv 2307.07269, as its code has it; see
        :func:`~robustvox.benchmark.training.losses.spectral_distance`.
    Differs from the source: half the sum of the two losses, so that learning rate and clipping mean the same as in
        plain training; the inner VAFA has 5 steps and blocks of 16, theirs always 20 and 32.

    Args:
        attack: inside; any of the registry.
        frequency: weight of L_fr, >= 0.
        normalized: L_fr as in the code; False as in the paper's formula.
    """

    inner: ClassVar[str] = "vafa:block_size=16,q_max=20,steps=5"

    attack: NamedAttack
    frequency: float = 1.0
    normalized: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("frequency", self.frequency, 0.0)

    @property
    def radius(self) -> float | None:
        return self.attack.attack.radius

    def loss(self, step: Step) -> Tensor:
        if is_idle(self.attack.attack):
            return step.loss(step.images)
        every = range(len(step.images))
        moved = step.replaced(every, step.attacked(self.attack.attack, every))
        clean, other = step.network(step.images), step.network(moved)
        apart = spectral_distance(clean, other, normalized=self.normalized)
        return 0.5 * (step.loss_of(clean) + step.loss_of(other) + self.frequency * apart)


@dataclass(frozen=True, kw_only=True)
class Free(Defence):
    """Free adversarial training: every batch several times, and one gradient moves weights and noise alike.

    The noise starts uniform in the ball, from the stream of its case, and is dropped with the window: carried to
    another volume, as the published volumetric code does, it would be noise of another anatomy. It is zero where a
    window lies beyond its volume (image exactly 0).

    Source: Shafahi et al., NeurIPS 2019, arXiv 1904.12843; for volumes Daza et al., MICCAI 2021, whose step
        ``(eps // 2) * sign`` is zero for z-scored data and never leaves the start.
    Differs from the source: the gradient is the training pass's own, as in both, and so in training mode; every
        other inner attack here runs in eval mode.

    Args:
        eps: L-inf radius in [0, 1].
        repeats: steps on the same windows, >= 1.
        alpha: step of the noise; None for ``eps``.
    """

    eps: float = 8 / 255
    repeats: int = 4
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("eps", self.eps, 0.0, 1.0)
        in_range("repeats", self.repeats, 1)
        if self.repeats != int(self.repeats):
            raise ValueError(f"repeats: expected a whole number of steps, got {self.repeats!r}")

    @property
    def replays(self) -> int:
        return int(self.repeats) if self.eps else 1

    @property
    def radius(self) -> float:
        return self.eps

    def loss(self, step: Step) -> Tensor:
        if self.eps == 0:
            return step.loss(step.images)
        if step.number % self.replays == 0:
            noise = [
                torch.rand(image.shape, generator=step.generator(draw)) * 2 - 1
                for image, draw in zip(step.images, step.windows.draws, strict=True)
            ]
            step.memory["noise"] = self.eps * torch.stack(noise).to(step.images)
        images = step.images + step.memory["noise"] * (step.images != 0)
        noisy = step.replaced(range(len(images)), images.clamp(*ball(step.images, self.eps)))
        step.memory["images"] = noisy.requires_grad_()
        return step.loss(noisy)

    def after(self, step: Step) -> None:
        if self.eps == 0:
            return
        gradient = step.memory.pop("images").grad
        if gradient is None:
            raise RuntimeError("free: expected a gradient of the images after the backward pass, found none")
        alpha = self.eps if self.alpha is None else self.alpha
        step.memory["noise"] = (step.memory["noise"] + alpha * gradient.sign()).clamp(-self.eps, self.eps)


@dataclass(frozen=True, kw_only=True)
class Adaptive(_Attacked):
    """Adversarial training with a radius per case, that grows while the case holds and shrinks once it breaks.

    After the attack, the case's radius grows by ``grow`` where the Dice is at least ``hold``, and falls by as much
    where it is not; it stays in [0, eps].

    Source: the idea of Adaptive Margin Adversarial Training, arXiv 2206.01736.
    Differs from the source: an L-inf radius, on the Dice of the window, kept by case; theirs is an L2 radius, and
        the loss is weighted by what was segmented right before.

    Args:
        attack: inside; any of the registry with an L-inf radius.
        grow: change of a radius in one visit, > 0.
        hold: foreground Dice in [0, 1] under attack from which a case counts as held.
    """

    inner: ClassVar[str] = "pgd:eps=12/255,loss=dice_ce,steps=3"

    grow: float = 4 / 255
    hold: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("grow", self.grow, 0.0)
        in_range("hold", self.hold, 0.0, 1.0)
        if not hasattr(self.attack.attack, "eps") or self.attack.attack.radius is None:
            raise ValueError(
                f"attack: expected one with an L-inf radius eps, got {self.attack.spec}; name one such as pgd"
            )

    def change(self, step: Step, which: list[int]) -> Tensor | None:
        return None if is_idle(self.attack.attack) else torch.cat([self._one(step, i) for i in which])

    def _one(self, step: Step, i: int) -> Tensor:
        largest, case = float(self.attack.attack.radius or 0), f"radius/{step.windows.draws[i].case}"
        radius = float(step.memory.get(case, torch.tensor(min(self.grow, largest), dtype=torch.float64)))
        best: list[Tensor] = []
        attack: Any = self.attack.attack
        steps = {} if getattr(attack, "alpha", None) is None else {"alpha": attack.alpha * radius / largest}
        attack = replace(attack, eps=radius, **steps)
        changed = step.attacked(attack, [i], on_step=lambda info: best.append(info.metric))
        held = min(float(metric.min()) for metric in best) >= self.hold if best else False
        step.memory[case] = torch.tensor(next_radius(radius, held, self.grow, largest), dtype=torch.float64)
        return changed


def next_radius(radius: float, held: bool, grow: float, largest: float) -> float:
    """The radius of a case at its next visit.

    Example:
        >>> next_radius(0.02, True, 0.01, 0.025), next_radius(0.005, False, 0.01, 0.025)
        (0.025, 0.0)
    """
    return min(max(radius + (grow if held else -grow), 0.0), largest)


DEFENCES: Mapping[str, type[Defence]] = {
    "pgd_at": PGDTraining,
    "trades": Trades,
    "vaft": Vaft,
    "free": Free,
    "adaptive": Adaptive,
    "noise": Noise,
    "corrupt": Corrupt,
}
"""Name -> class; ``natural`` is the word for none."""


@dataclass(frozen=True)
class NamedDefence:
    """A defence with its registry name, which the model's name carries, and the spec with all defaults filled in."""

    name: str
    spec: str
    defence: Defence


NATURAL = NamedDefence("", "none", Natural())


def build_defence(spec: Spec, load_attack: Callable[[str], NamedAttack]) -> NamedDefence:
    """The defence that a spec names: its own parameters, and those of the attack inside.

    ``attack=NAME`` names the attack; every parameter that the defence does not know is the attack's.

    Args:
        spec: ``pgd_at:eps=8/255,steps=3`` or ``pgd_at:attack=vafa,q_max=20,share=1``.
        load_attack: from the spec of an attack to the attack.

    Raises:
        UsageError: unknown defence or parameter, or a value that is out of range.
    """
    name = match(spec.name, DEFENCES, "defence")
    kind = DEFENCES[name]
    known = {field.name for field in fields(kind) if field.init} - {"attack"}
    own = {key: value for key, value in spec.parameters.items() if key in known}
    rest = {key: value for key, value in spec.parameters.items() if key not in known}
    if not kind.inner:
        if rest:
            raise UsageError(
                f"{name} has no parameter {next(iter(rest))!r}; it takes {', '.join(sorted(known))}"
            )
    else:
        own["attack"] = _inner(kind, rest, load_attack)
    try:
        defence = kind(**own)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error
    shown = {f.name: getattr(defence, f.name) for f in fields(kind) if f.init and f.name != "attack"}
    if "attack" in own:
        inner = Spec.parse(own["attack"].spec)
        shown |= {**inner.parameters, "attack": inner.name}
    return NamedDefence(name, canonical(name, shown), defence)


def _inner(
    kind: type[Defence], given: Mapping[str, Any], load_attack: Callable[[str], NamedAttack]
) -> NamedAttack:
    """The attack inside: the defence's usual one with other numbers, or the one that is named."""
    usual, rest = Spec.parse(kind.inner), dict(given)
    named = str(rest.pop("attack", usual.name))
    if normalize(named) == normalize(usual.name):
        rest = {**usual.parameters, **rest}
    return load_attack(canonical(named, rest))
