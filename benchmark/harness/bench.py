"""A plan on the bench: its volumes, its clean predictions, and its jobs one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustvox.datasets import Volume, patient_of

from ..craft.crafting import Crafted, craft
from ..craft.meter import Cost
from ..craft.named import NamedModel, predict
from ..craft.view import truncate
from ..metrics.distortion import Distortion, measure
from ..metrics.success import VoxelSuccess, voxel_success
from ..plan.plan import Job, Plan
from ..plan.source import case_fingerprint
from ..records.volumes import Note, save_adversarial
from ..specs.crossing import Writing
from .compute import ClassScore, Failure, Outcome, Scored, channel_changes
from .faults import CASE_FAILURES
from .scoring import Scorer, prepare_scorer

Save = Callable[[Job, "PreparedCase", Crafted], None]
"""Called with every volume that was crafted."""

Watch = Callable[[Scored], None]
"""Called with every prediction that was scored in this process."""

_REMEMBERED = 2  # cases; jobs come case by case


@dataclass(frozen=True)
class PreparedCase:
    """A volume with its fingerprint and what scoring reuses of it."""

    volume: Volume
    data_sha256: str
    scorer: Scorer


class Bench:
    """Computes the jobs of a plan in this process; keeps the last volumes and their clean predictions.

    Args:
        plan: what is crossed.
        save: where crafted volumes go, see :func:`saver`.
        watch: who looks at predictions.
        max_cost: forward and backward passes that crafting one volume may take; None for any number.

    Example:
        >>> from robustvox.attacks import GN
        >>> from robustvox.benchmark.craft.named import NamedAttack, NamedModel
        >>> from robustvox.benchmark.specs.protocols import PROTOCOLS
        >>> from robustvox.datasets import open_dataset
        >>> model = NamedModel("conv", "", torch.nn.Conv3d(1, 8, 1))
        >>> noise = NamedAttack("gn:std=0.1", GN(std=0.1))
        >>> plan = Plan(open_dataset("phantom"), ["val_000"], [model], [model], [noise], PROTOCOLS["robustvox-1"])
        >>> clean, attacked = plan.jobs()
        >>> (outcome,) = Bench(plan).run(attacked)
        >>> outcome.distortion.linf > 0.1, outcome.cost.backwards
        (True, 0)
    """

    def __init__(
        self,
        plan: Plan,
        *,
        save: Save | None = None,
        watch: Watch | None = None,
        max_cost: int | None = None,
    ) -> None:
        self.plan = plan
        self._save, self._watch = save, watch
        self._max_cost = max_cost
        self._prepared: dict[str, PreparedCase] = {}
        self._errors: dict[str, BaseException] = {}
        self._clean: dict[tuple[str, str], np.ndarray] = {}
        self._bound: dict[tuple[str, str], NamedModel] = {}
        self._clean_of: Volume | None = None
        #: share of each model's window that each case fills, as far as cases were read
        self.filled: dict[tuple[str, str], dict[str, float]] = {}

    def case(self, case_id: str) -> PreparedCase:
        """The case, read once, also where reading fails.

        Raises:
            CASE_FAILURES: whatever reading it raised.
        """
        if case_id in self._errors:
            raise self._errors[case_id]
        if case_id not in self._prepared:
            try:
                prepared = self._prepare(case_id)
            except CASE_FAILURES as error:
                self._errors[case_id] = error
                raise
            while len(self._prepared) >= _REMEMBERED:
                self._prepared.pop(next(iter(self._prepared)))
            self._prepared[case_id] = prepared
        return self._prepared[case_id]

    def clean(self, target: NamedModel, volume: Volume) -> np.ndarray:
        """What a model predicts on the clean image of the last case; every success rate needs it."""
        bound = self.for_case(target, volume)
        if target.key not in self._clean:
            image = torch.from_numpy(volume.image)[None].to(self.plan.device)
            self._clean[target.key] = predict(bound, image).astype(np.int16)
        return self._clean[target.key]

    def for_case(self, model: NamedModel, volume: Volume) -> NamedModel:
        """The model for the last case, made once: an attack and its scoring meet the same grid and prompts.

        Raises:
            ValueError: the case is not for this model.
        """
        if volume is not self._clean_of:
            self._clean_of, self._clean, self._bound = volume, {}, {}
        if model.key not in self._bound:
            self._bound[model.key] = model.for_case(volume)
        return self._bound[model.key]

    def craft(self, job: Job) -> Crafted:
        """What a job scores: an adversarial volume, new or saved, or the clean image."""
        plan, case = self.plan, self.case(job.case)
        if job.saved is not None:
            note = job.saved.note
            image = torch.from_numpy(job.saved.load(case.volume, case.data_sha256))[None].to(plan.device)
            return Crafted(image, Cost(note.forwards, note.backwards, note.seconds), frozenset(note.flags))
        if job.attack is None or job.surrogate is None:
            return Crafted(torch.from_numpy(case.volume.image)[None].to(plan.device), Cost())
        crafted = craft(
            job.attack,
            self.for_case(job.surrogate, case.volume),
            case.volume,
            dataset=plan.dataset.name,
            protocol=plan.protocol,
            seed=plan.seed,
            device=plan.device,
            limit=self._max_cost,
        )
        if self._save is not None:
            self._save(job, case, crafted)
        return crafted

    def run(self, job: Job, targets: Sequence[NamedModel] | None = None) -> list[Outcome | Failure]:
        """Craft the job's volume and score it on its targets (or some of them), in their order.

        A target that fails has a :class:`Failure` in its place; the others go on.

        Raises:
            CASE_FAILURES: the case cannot be read, or its volume cannot be crafted.
        """
        crafted = self.craft(job)
        distances: dict[bool, Distortion] = {}
        found: list[Outcome | Failure] = []
        for target in job.targets if targets is None else targets:
            try:
                scored = self._score(job, target, crafted, distances)
            except CASE_FAILURES as error:
                found.append(Failure.of(error))
                continue
            found.append(scored.outcome)
            if self._watch is not None:
                self._watch(scored)
        return found

    def scored(self, job: Job, target: NamedModel) -> Scored:
        """As :meth:`run` for one target, with the volumes behind the numbers; a failure is raised.

        Raises:
            CASE_FAILURES: anything that went wrong.
        """
        return self._score(job, target, self.craft(job), {})

    def truncates(self, job: Job, target: NamedModel) -> bool:
        """Whether the protocol puts 8 bits between the attacked model and this target."""
        source = job.saved.note.surrogate_sha256 if job.saved else job.surrogate and job.surrogate.sha256
        return self.plan.protocol.uint8 and source not in (None, target.sha256)

    def _prepare(self, case_id: str) -> PreparedCase:
        dataset = self.plan.dataset
        volume = dataset.load(case_id)
        for model in self.plan.models:
            share = model.filled(volume)
            if share is not None:
                self.filled.setdefault(model.key, {})[case_id] = share
        scorer = prepare_scorer(dataset, volume, self.plan.protocol)
        return PreparedCase(volume, case_fingerprint(self.plan.dataset, volume), scorer)

    def _score(
        self, job: Job, target: NamedModel, crafted: Crafted, distances: dict[bool, Distortion]
    ) -> Scored:
        case = self.case(job.case)
        volume = case.volume
        target = self.for_case(target, volume)
        truncated = self.truncates(job, target)
        images = truncate(crafted.images) if truncated else crafted.images
        if truncated not in distances:
            distances[truncated] = measure(images[0].cpu().numpy(), volume.image)
        unharmed = self.clean(target, volume)
        prediction = unharmed if job.clean else predict(target, images)
        outcome = Outcome(
            scores=self._class_scores(case.scorer, prediction),
            cost=crafted.cost,
            distortion=distances[truncated],
            success=None if job.clean else self._success(prediction, unharmed, volume),
            channels=channel_changes(images[0].cpu().numpy(), volume),
            flags=tuple(sorted({*crafted.flags, *self.plan.protocol.flags, *target.flags})),
            prompts=target.prompts,
            blind=target.blind,
            patient=self._patient(job.case),
        )
        return Scored(job, target, volume, images, prediction, outcome)

    def _patient(self, case: str) -> str:
        """Whom a case is of; empty where it is the only one of its patient."""
        patient = patient_of(self.plan.dataset, case)
        return "" if patient == case else patient

    def _success(self, prediction: np.ndarray, unharmed: np.ndarray, volume: Volume) -> VoxelSuccess:
        """Over the voxels that somebody labelled."""
        if volume.ignore is None:
            return voxel_success(prediction, unharmed, volume.label)
        there = ~volume.ignore
        return voxel_success(prediction[there], unharmed[there], volume.label[there])

    def _class_scores(self, scorer: Scorer, prediction: np.ndarray) -> tuple[ClassScore, ...]:
        names = self.plan.dataset.class_names
        rows: list[Any] = scorer(prediction).to_dict("records")
        return tuple(ClassScore(class_name=names[row["class_id"]], **row) for row in rows)


def requested_saver(writing: Writing | None, plan: Plan) -> Save | None:
    """The saver that a request asks for, None where it asks for none."""
    if writing is None or not writing.save_adversarial:
        return None
    return saver(plan, writing.out / plan.dataset.name / "adversarial", writing.units)


def saver(plan: Plan, folder: Path, units: str) -> Save:
    """Writes every crafted volume below ``folder``, with the note that lets it be scored again.

    Args:
        plan: names the record a volume belongs to.
        folder: ``results/<dataset>/adversarial``.
        units: of the intensities in the file, among :data:`~robustvox.benchmark.specs.crossing.UNITS`.
    """

    def save(job: Job, case: PreparedCase, crafted: Crafted) -> None:
        unit = plan.unit(job, job.targets[0], case.data_sha256)
        note = Note(
            key=unit.key,
            units=units,
            dataset=unit.dataset,
            case=unit.case,
            attack=unit.attack,
            surrogate=unit.surrogate,
            surrogate_sha256=unit.surrogate_sha256,
            protocol=unit.protocol,
            seed=unit.seed,
            data_sha256=unit.data_sha256,
            **asdict(crafted.cost),
            flags=tuple(sorted(crafted.flags)),
        )
        save_adversarial(folder, case.volume, crafted.images[0].cpu().numpy(), note)

    return save
