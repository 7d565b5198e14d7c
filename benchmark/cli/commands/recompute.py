"""Rows of records computed again, from what is registered here or was typed in this call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from robustvox.datasets.folder import CaseFolder

from ...craft.passes import most_passes
from ...craft.view import attacked_windows
from ...harness.bench import Bench
from ...harness.faults import CASE_FAILURES, reason_of
from ...plan.attacks import load_attack, recorded_attack
from ...plan.cases import load_dataset, recorded_dataset
from ...plan.model_text import ByFactory, parse_model
from ...plan.models import choose_device, find_recorded, load_model, recorded_model
from ...plan.plan import Job, Plan
from ...plan.windows import read_window
from ...records.sources import base_name, path_of
from ...specs.program import pasted
from ...specs.protocols import Protocol, find_protocol
from ...specs.spec import CLEAN, Spec, UsageError
from ...specs.tolerances import tolerance_of
from .agreement import Recorded, columns_apart

if TYPE_CHECKING:
    from robustvox.datasets import Dataset, Volume

    from ...craft.named import NamedAttack, NamedModel
    from ...harness.compute import Outcome
    from ...records.unit import Unit
    from ...specs.entering import VerifyRequest


@dataclass(frozen=True)
class Comparison:
    """What came of computing a unit again.

    Attributes:
        apart: largest difference in Dice to the record, over the classes; None where nothing was computed.
        problems: what is wrong, one line each.
        above: recorded Dice minus the computed one, of every class that both have.
    """

    apart: float | None
    problems: tuple[str, ...]
    above: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.apart is None:
            return "not recomputed"
        return "differs" if self.problems else f"agrees within {self.apart:.1e}"


class Recomputation:
    """Loads datasets and models once and computes units again.

    Names come from the records, so none of them is imported and no path among them is opened. Models and attacks
    of somebody's own are those of ``--model`` and ``--attack``.

    Args:
        request: of ``verify``.
        known: checkpoint files at hand by their sha256.

    Raises:
        UsageError: an attack of the request that cannot be loaded.
    """

    def __init__(self, request: VerifyRequest, known: Mapping[str, Path]) -> None:
        self._request, self._known = request, known
        self._datasets: dict[str, Dataset] = {}
        self._models: dict[tuple[str, ...], NamedModel] = {}
        self._typed: dict[tuple[str, str], dict[tuple[str, str], NamedModel]] = {}
        for text in request.attacks:
            load_attack(text)  # imports its module; from then on the records may name the class

    def refusal(self, unit: Unit) -> str:
        """Why a unit cannot be computed again from what is registered or was typed; nothing where it can.

        Raises:
            UsageError: as :meth:`compare`.
        """
        pairs = {(unit.surrogate, unit.surrogate_sha256), (unit.target, unit.target_sha256)}
        own = [pair for pair in sorted(pairs) if pair[1] not in self._known]
        return self._attack_refusal(unit.attack) or next(
            filter(None, (self._model_refusal(*pair, unit.dataset, unit.protocol) for pair in own)), ""
        )

    @cache  # noqa: B019 - lives as long as one call of the command
    def _attack_refusal(self, spec: str) -> str:
        try:
            with warnings.catch_warnings():
                # Told when a row of it is computed.
                warnings.simplefilter("ignore")
                self._attack(spec)
        except UsageError as error:
            return str(error)
        return ""

    @cache  # noqa: B019
    def _model_refusal(self, name: str, sha256: str, dataset: str, protocol: str) -> str:
        if not self._request.models:
            try:
                find_recorded(Spec.parse(name))
            except UsageError as error:
                return str(error)
            return ""
        opened = self._dataset(dataset)
        try:
            self._model(name, sha256, opened, find_protocol(protocol), choose_device(self._request.device))
        except ValueError as error:
            return str(error)
        return ""

    def compare(self, unit: Unit, recorded: Recorded) -> Comparison:
        """A unit's rows beside what comes out now.

        Raises:
            UsageError: a dataset that is not at hand, or a device that is not there.
        """
        dataset, device = self._dataset(unit.dataset), choose_device(self._request.device)
        try:
            return self._compare(unit, recorded, dataset, device)
        except CASE_FAILURES as error:
            reason = reason_of(error)
            return Comparison(None, (f"expected to compute {describe(unit)} again, got: {reason}",))

    def _compare(self, unit: Unit, recorded: Recorded, dataset: Dataset, device: str) -> Comparison:
        protocol = find_protocol(unit.protocol)
        target = self._model(unit.target, unit.target_sha256, dataset, protocol, device)
        surrogate = self._model(unit.surrogate, unit.surrogate_sha256, dataset, protocol, device)
        attack = self._attack(unit.attack)
        plan = Plan(
            dataset=dataset,
            cases=(unit.case,),
            surrogates=(surrogate,),
            targets=(target,),
            attacks=(attack,) if attack else (),
            protocol=protocol,
            seed=unit.seed,
            device=device,
        )
        bench = Bench(plan, max_cost=self._request.max_cost)
        case = bench.case(unit.case)
        if case.data_sha256 != unit.data_sha256:
            return Comparison(
                None,
                (
                    f"{describe(unit)}: expected data with sha256 {unit.data_sha256[:16]}, got "
                    f"{case.data_sha256[:16]}; this copy of the case is another one, see `{pasted(['data', '--dataset', unit.dataset])}`",
                ),
            )
        cost = passes(attack, surrogate, protocol, case.volume)
        if cost > self._request.max_cost:
            # Anyone can write a number of steps into a record: say what it costs instead of beginning.
            return Comparison(
                None,
                (
                    f"{describe(unit)}: expected at most {self._request.max_cost} forward and backward passes of the "
                    f"attacked model, found that this row can take {cost}; say --max-cost {cost} to compute it",
                ),
            )
        job = Job(unit.case, surrogate if attack else None, attack, (target,))
        return _beside(unit, recorded, bench.scored(job, target).outcome, device)

    def _attack(self, spec: str) -> NamedAttack | None:
        return None if spec == CLEAN else recorded_attack(spec)

    def _dataset(self, name: str) -> Dataset:
        if name not in self._datasets:
            chosen, root = self._request.dataset, self._request.data_root
            opened = load_dataset(chosen, root) if chosen else recorded_dataset(name, root)
            path = path_of(opened)
            if path is not None and opened.name != name and base_name(opened.name) == base_name(name):
                # The same data lie elsewhere here; their hashes are compared case by case.
                opened = opened.renamed(name, path) if isinstance(opened, CaseFolder) else opened
            if opened.name != name:
                raise UsageError(
                    f"expected the dataset {name} of the records, got {opened.name}; correct --dataset"
                )
            self._datasets[name] = opened
        return self._datasets[name]

    def _model(self, name: str, sha256: str, dataset: Dataset, protocol: Protocol, device: str) -> NamedModel:
        key = (name, sha256, dataset.name, protocol.name)
        if key not in self._models:
            checkpoint = self._known.get(sha256)
            typed = {} if checkpoint else self._typed_models(dataset, protocol, device)
            model = typed.get((name, sha256)) or recorded_model(
                name, dataset, protocol, checkpoint=checkpoint, device=device
            )
            if model.sha256 != sha256:
                raise ValueError(
                    f"expected weights of {name} with sha256 {sha256[:16]}, got {model.sha256[:16]}; give the file "
                    "with --checkpoint"
                )
            self._models[key] = model
        return self._models[key]

    def _typed_models(
        self, dataset: Dataset, protocol: Protocol, device: str
    ) -> dict[tuple[str, str], NamedModel]:
        """What ``--model`` names, for this data."""
        key = (dataset.name, protocol.name)
        if key not in self._typed:
            models = [self._typed_model(text, dataset, protocol, device) for text in self._request.models]
            self._typed[key] = {model.key: model for found in models for model in found}
        return self._typed[key]

    def _typed_model(self, text: str, dataset: Dataset, protocol: Protocol, device: str) -> list[NamedModel]:
        """A model as typed; a factory with each of the checkpoints that it takes, as `run` gives it one."""
        asked = self._request.roi_size
        roi_size = None if asked is None else read_window(asked, "--roi-size")
        files: list[Path | None] = [None]
        if isinstance(parse_model(text), ByFactory):
            files += self._request.checkpoints
        found, refused = [], []
        for checkpoint in files:
            try:
                found.append(
                    load_model(
                        text, dataset, protocol, checkpoint=checkpoint, device=device, roi_size=roi_size
                    )
                )
            except UsageError as error:
                refused.append(error)
        if not found:
            raise refused[0]
        return found


def _beside(unit: Unit, recorded: Recorded, outcome: Outcome, device: str) -> Comparison:
    """The Dice of every class and all other columns, recorded and computed on a device."""
    then, now = recorded.dice, {score.class_name: score.dice for score in outcome.scores}
    tolerance = tolerance_of(unit.attack, elsewhere=recorded.device != device.partition(":")[0])
    apart = {name: distance(then.get(name), now.get(name)) for name in sorted({*then, *now})}
    problems = [
        f"{describe(unit)}: expected Dice {then.get(name)} of {name} as recorded, got {now.get(name)}, more "
        f"than {tolerance} apart"
        for name, value in apart.items()
        if value > tolerance
    ]
    others = [*columns_apart(recorded, outcome.score_rows(), outcome.cost_row(""))]
    if others and not problems:
        problems.append(f"{describe(unit)}: expected the columns as recorded, got {'; '.join(others)}")
    both = [(then[name], now[name]) for name in then.keys() & now.keys()]
    above = tuple(a - b for a, b in both if math.isfinite(a) and math.isfinite(b))
    return Comparison(max(apart.values()), tuple(problems), above)


def describe(unit: Unit) -> str:
    """A unit in words."""
    return f"unit {unit.key} ({unit.dataset}, {unit.case}, {unit.attack}, {unit.surrogate} on {unit.target})"


def passes(attack: NamedAttack | None, surrogate: NamedModel, protocol: Protocol, volume: Volume) -> int:
    """The most forward and backward passes that a row takes: those of the attack, in every window it is run in."""
    if attack is None:
        return 0
    windows = attacked_windows(protocol, surrogate.predictor, volume.image.shape[1:])
    return windows * most_passes(attack.attack)


def distance(recorded: float | None, now: float | None) -> float:
    """How far two Dice values are apart; a class that is not applicable (NaN) agrees only with itself.

    Example:
        >>> distance(0.5, 0.75), distance(float("nan"), float("nan")), distance(0.5, None)
        (0.25, 0.0, inf)
    """
    if recorded is None or now is None or math.isnan(recorded) != math.isnan(now):
        return math.inf
    return 0.0 if math.isnan(recorded) else abs(recorded - now)
