"""What checks share: the model, the attack, the cases, and every attacked volume that was scored already."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.attacks import Attack, StepInfo, frozen
from robustvox.datasets import Volume

from ...craft.crafting import labelled, noise_generator
from ...craft.named import NamedAttack, NamedModel, predict
from ...harness.scoring import counted
from ...metrics.scores import LabelSurfaces, score
from ...plan.attacks import attack_spec
from ...specs.knobs import find_knob
from ...specs.protocols import DEFAULT_PROTOCOL
from ...specs.spec import CLEAN, Spec

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Case:
    """One volume on the device, with what scoring it reuses."""

    volume: Volume
    images: Tensor
    labels: Tensor
    surfaces: LabelSurfaces

    @property
    def id(self) -> str:
        return self.volume.id


@dataclass(frozen=True)
class CaseScore:
    """The scores of one volume in a check.

    Attributes:
        classes: a row per foreground class, as `metrics.score` gives it.
        best_step: index of the returned point; None when the attack showed no step.
        last_step: index of the last point it evaluated.
    """

    classes: DataFrame
    best_step: int | None = None
    last_step: int = 0

    @property
    def dice(self) -> float:
        """Foreground mean, NaN without any foreground in reference and prediction."""
        return mean(self.classes["dice"].tolist())

    @property
    def hd95(self) -> float:
        """Foreground mean in mm."""
        return mean(self.classes["hd95_mm"].tolist())


class Context:
    """A model, an attack and cases; attacks and scores each variant once per case.

    Every variant of the attack draws from the seed of the attack itself, so that two variants differ by their
    hyper-parameters only, and the attack itself gives the very volumes that `run` records.

    Args:
        model: whole-volume predictor.
        attack: the attack in question.
        volumes: cases, at least one.
        num_classes: background included.
        dataset: name that enters the seeds.
        protocol: name of the protocol the predictor follows.
        seed: of all noise.
        device: where networks run.
        queries: forwards of the gradient-free probe.
        tick: called after every attacked volume.
    """

    def __init__(
        self,
        model: NamedModel,
        attack: NamedAttack,
        volumes: Sequence[Volume],
        *,
        num_classes: int,
        dataset: str = "volumes",
        protocol: str = DEFAULT_PROTOCOL,
        seed: int = 0,
        device: str = "cpu",
        queries: int = 1000,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.named, self.num_classes = model, attack, num_classes
        self.dataset, self.protocol, self.seed, self.queries = dataset, protocol, seed, queries
        self.device, self._volumes, self._tick = device, volumes, tick
        self._scored: dict[tuple[str, str], CaseScore] = {}
        self._images: dict[str, Tensor] = {}
        self._bound: dict[str, NamedModel] = {}

    @property
    def attack(self) -> Attack:
        return self.named.attack

    @cached_property
    def cases(self) -> list[Case]:
        """The volumes as tensors."""
        return [
            Case(
                volume,
                torch.from_numpy(volume.image)[None].to(self.device),
                torch.from_numpy(volume.label.astype(np.int64))[None, None].to(self.device),
                LabelSurfaces(volume.label, num_classes=self.num_classes, spacing_mm=volume.spacing_mm),
            )
            for volume in self._volumes
        ]

    def bound(self, case: Case) -> NamedModel:
        """The model as it reads a case; prompts are fixed once, from the clean image."""
        if case.id not in self._bound:
            self._bound[case.id] = self.model.for_case(case.volume)
        return self._bound[case.id]

    def predictor(self, case: Case) -> nn.Module:
        """What maps images of a case to logits."""
        return self.bound(case).predictor

    def has(self, *names: str) -> bool:
        """Whether the attack has all of these hyper-parameters, none of them None."""
        return all(getattr(self.attack, name, None) is not None and name in self._fields for name in names)

    def value(self, name: str, default: Any = None) -> Any:
        """A hyper-parameter of the attack."""
        return getattr(self.attack, name, default)

    @property
    def knob(self) -> str:
        """The field that sets the budget, or nothing."""
        return find_knob({name: self.value(name) for name in self._fields})

    def variant(self, **changes: Any) -> NamedAttack:
        """The attack with some hyper-parameters changed; those it does not have are left out."""
        kept = {name: value for name, value in changes.items() if name in self._fields}
        with warnings.catch_warnings():
            # A sweep visits settings nobody would run, and says so itself.
            warnings.simplefilter("ignore")
            return self.other(Spec.parse(self.named.spec).name, replace(self.attack, **kept))

    def other(self, name: str, attack: Attack) -> NamedAttack:
        """Another attack, to compare with."""
        return NamedAttack(attack_spec(name, attack), attack)

    def at(self, budget: float, **changes: Any) -> NamedAttack:
        """The attack at another budget; its step size keeps its share of the radius."""
        if self.knob == "eps" and self.has("alpha"):
            eps, alpha = self.value("eps"), self.value("alpha")
            changes["alpha"] = min(alpha * budget / eps, 1.0) if eps else None
        return self.variant(**{self.knob: budget}, **changes)

    def clean(self, case: Case) -> CaseScore:
        """The score of the untouched volume."""
        return self._once(CLEAN, case, lambda: (case.images, None))

    def run(self, case: Case, attack: NamedAttack | None = None) -> CaseScore:
        """Attack a case and score it: the attack in question, or another."""
        named = attack or self.named
        return self._once(named.spec, case, lambda: self._attacked(named, case))

    def images(self, case: Case) -> Tensor:
        """The volume that the attack in question gives."""
        self.run(case)
        return self._images[case.id]

    def mean(self, attack: NamedAttack | None = None) -> float:
        """Mean foreground Dice over the cases."""
        return mean([self.run(case, attack).dice for case in self.cases])

    def clean_mean(self) -> float:
        """Mean foreground Dice of the untouched volumes."""
        return mean([self.clean(case).dice for case in self.cases])

    def generator(self, case: Case) -> torch.Generator:
        """The random stream that `run` gives to this attack on this case."""
        return noise_generator(self.seed, self.dataset, case.id, self.named.spec)

    def craft(
        self,
        case: Case,
        *,
        attack: Attack | None = None,
        predictor: nn.Module | None = None,
        on_step: Callable[[StepInfo], None] | None = None,
    ) -> Tensor:
        """What an attack makes of a case, by default the one in question on the model, as `run` crafts it."""
        return (attack or self.attack).at_spacing(case.volume.spacing_mm)(
            self.predictor(case) if predictor is None else predictor,
            case.images,
            case.labels,
            mask=labelled(case.volume, self.device),
            generator=self.generator(case),
            on_step=on_step,
        )

    def score(self, case: Case, images: Tensor) -> DataFrame:
        """A row per foreground class."""
        with frozen(self.predictor(case)):
            prediction = predict(self.bound(case), images)
        return self.score_labels(case, prediction)

    def score_labels(self, case: Case, prediction: np.ndarray) -> DataFrame:
        """A row per foreground class of a label volume."""
        return score(
            counted(prediction, case.volume.ignore),
            case.volume.label,
            num_classes=self.num_classes,
            spacing_mm=case.volume.spacing_mm,
            cache=case.surfaces,
        )

    @property
    def _fields(self) -> set[str]:
        return {field.name for field in fields(self.attack) if field.init}

    def _once(self, spec: str, case: Case, craft: Callable[[], tuple[Tensor, StepInfo | None]]) -> CaseScore:
        key = (spec, case.id)
        if key not in self._scored:
            images, last = craft()
            steps = (int(last.best_step[0]), last.steps) if last is not None else (None, 0)
            self._scored[key] = CaseScore(self.score(case, images), *steps)
        return self._scored[key]

    def _attacked(self, named: NamedAttack, case: Case) -> tuple[Tensor, StepInfo | None]:
        seen: list[StepInfo] = []

        def watch(info: StepInfo) -> None:
            seen[:] = [info]

        images = self.craft(case, attack=named.attack, on_step=watch)
        self._tick()
        if named.spec == self.named.spec:
            # The others are scored and dropped: thirty copies of a CT would not fit.
            self._images[case.id] = images
        return images, seen[0] if seen else None


def mean(values: Sequence[float]) -> float:
    """Mean of what is known (a class absent in both, a case without foreground is not); NaN when nothing is."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def is_noise(context: Context) -> str:
    """Reason: a control is not judged as an attack."""
    return "" if context.attack.takes_targets else "a noise control, no attack"


def no_gradient(context: Context) -> str:
    """Reason: noise and query attacks follow no gradient."""
    return is_noise(context) or ("follows no gradient" if context.has("queries") else "")


def no_radius(context: Context) -> str:
    """Reason: no L-inf ball to compare in."""
    return "" if context.attack.radius is not None else "has no L-inf radius"


def no_eps(context: Context) -> str:
    """Reason: no eps to vary."""
    return "" if context.has("eps") else "has no eps"


def lacks(*names: str) -> Callable[[Context], str]:
    """Reason: the attack has no such hyper-parameter."""
    return lambda context: "" if context.has(*names) else f"has no {' and no '.join(names)}"
