"""A plan on the bench: its volumes, its clean predictions, and its jobs one by one or several at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from robustvox.datasets import ChannelWindows, IntensityWindow, Volume

from ..craft.batches import Company, company_of, most_together
from ..craft.crafting import Crafted, craft_together
from ..craft.meter import Cost, StepWatch, Stopwatch
from ..craft.named import NamedModel, predict
from ..craft.passes import most_passes
from ..craft.view import attacked_windows, truncate
from ..plan.plan import Job, Plan
from ..plan.source import case_fingerprint
from .compute import Failure, Outcome, Scored, in_words
from .desk import Desk, Later, OwnDesk, Scoring
from .faults import CASE_FAILURES
from .saving import Saver, write_prediction, write_volume
from .scoring import Change, PreparedCase, change_of, judge, organ_sizes, patient_of_several, prepare_scorer
from .shortage import Room

Watch = Callable[[Scored], None]
"""Called with every prediction that was scored in this process."""

_REMEMBERED = 2  # cases; jobs come case by case


@dataclass
class _OfCase:
    """What was computed of one volume: clean predictions, which are written, and the models as they read it."""

    volume: Volume
    clean: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    bound: dict[tuple[str, str], NamedModel] = field(default_factory=dict)
    written: set[tuple[str, str]] = field(default_factory=set)


class Bench:
    """Computes the jobs of a plan in this process; keeps the last volumes and their clean predictions.

    Args:
        plan: what is crossed.
        save: where crafted volumes go, see :func:`saver`.
        watch: who looks at predictions.
        max_cost: forward and backward passes that crafting one volume may take; None for any number.
        case_batch: cases that may be attacked together, or ``"auto"``: 1 on a CPU, and on an accelerator what fits.
        desk: where volumes are scored and written; this process by default.

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
        save: Saver | None = None,
        watch: Watch | None = None,
        max_cost: int | None = None,
        case_batch: int | str = 1,
        desk: Desk | None = None,
    ) -> None:
        self.plan = plan
        self.case_batch = 1 if case_batch == "auto" and plan.device.startswith("cpu") else case_batch
        self._save, self._watch = save, watch
        self._max_cost = max_cost
        self._desk: Desk = OwnDesk() if desk is None else desk
        self._held: frozenset[str] = frozenset()
        self._room = Room(plan.device, self.craft, self._craft_together)
        self._prepared: dict[str, PreparedCase] = {}
        self._errors: dict[str, BaseException] = {}
        self._of_case: dict[str, _OfCase] = {}
        self._doing: tuple[str, Job | None, StepWatch] = "", None, StepWatch()
        #: seconds of a forward on a clean image, the shortest so far
        self.forwards: dict[tuple[str, str], float] = {}
        #: share of each model's window that each case fills, as far as cases were read
        self.filled: dict[tuple[str, str], dict[str, float]] = {}
        #: millilitres of every organ that a case has, by class id, likewise
        self.organs_ml: dict[str, dict[int, float]] = {}
        #: what the intensities of each case mean, likewise
        self.windows: dict[str, IntensityWindow | ChannelWindows] = {}

    @property
    def doing(self) -> str:
        """What is in work at this moment, in a few words."""
        what, _, steps = self._doing
        return ", ".join(filter(None, (what, str(steps))))

    @property
    def attack(self) -> str:
        """The spec of the attack in work, empty for none."""
        job = self._doing[1]
        return job.attack.spec if job and job.attack else ""

    @property
    def attacked(self) -> tuple[str, ...]:
        """The key of the model under that attack, empty for none."""
        job = self._doing[1]
        return job.surrogate.key if job and job.surrogate else ()

    @property
    def share(self) -> float:
        """How far that attack is, 0 to 1."""
        return self._doing[2].share

    def hold(self, cases: Collection[str]) -> None:
        """Keep these cases and what was computed of them, beside the last ones; those that were held before may go."""
        self._held = frozenset(cases)

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
            others = [known for known in self._prepared if known not in self._held]
            for old in others[: max(len(others) - _REMEMBERED + 1, 0)]:
                del self._prepared[old]
            self._prepared[case_id] = prepared
        return self._prepared[case_id]

    def clean(self, target: NamedModel, volume: Volume) -> np.ndarray:
        """What a model predicts on the clean image of the last case, or a held one; every success rate needs it."""
        bound, known = self.for_case(target, volume), self._known(volume).clean
        if target.key not in known:
            image = torch.from_numpy(volume.image)[None].to(self.plan.device)
            with Stopwatch(self.plan.device) as watch:
                known[target.key] = predict(bound, image).astype(np.int16)
            # The first forward may also have set something up.
            self.forwards[target.key] = min(watch.seconds, self.forwards.get(target.key, math.inf))
        return known[target.key]

    def for_case(self, model: NamedModel, volume: Volume) -> NamedModel:
        """The model for a case, made once: an attack and its scoring meet the same grid and prompts.

        Raises:
            ValueError: the case is not for this model.
        """
        bound = self._known(volume).bound
        if model.key not in bound:
            bound[model.key] = model.for_case(volume)
        return bound[model.key]

    def company(self, job: Job) -> Company | None:
        """In which company a job may be crafted; None for one that is crafted alone, or not at all."""
        if job.attack is None or job.surrogate is None:
            return None
        volume = self.case(job.case).volume
        try:
            surrogate = self.for_case(job.surrogate, volume)
            return company_of(job.attack, surrogate, volume, self.plan.protocol)
        except CASE_FAILURES:  # which its own crafting will tell
            return None

    def room(self, job: Job) -> int:
        """How many jobs of its company are crafted at once; 1 for one that is crafted alone."""
        company = self.company(job) if self.case_batch != 1 else None
        if company is None or job.surrogate is None:
            return 1
        try:
            most = most_together(
                company.predictor,
                company.shape[0],
                company.windows,
                self.case_batch,
                self.plan.device,
            )
        except CASE_FAILURES:  # of a network that fails on its window, which its cases will tell
            return 1
        return self._room.most([job], most)

    def craft(self, job: Job) -> Crafted:
        """What a job scores: an adversarial volume, new or saved, or the clean image."""
        plan, case = self.plan, self.case(job.case)
        if job.saved is not None:
            note = job.saved.note
            image = torch.from_numpy(job.saved.load(case.volume, case.data_sha256))[None].to(plan.device)
            return Crafted(image, Cost(note.forwards, note.backwards, note.seconds), frozenset(note.flags))
        if job.attack is None or job.surrogate is None:
            return Crafted(torch.from_numpy(case.volume.image)[None].to(plan.device), Cost())
        return self._craft_together([job])[0]

    def craft_all(self, jobs: Sequence[Job]) -> list[Crafted | Failure]:
        """The volumes of jobs of one :meth:`company`, or of any single job; see :meth:`Room.craft`."""
        return self._room.craft(jobs)

    def _craft_together(self, jobs: Sequence[Job]) -> list[Crafted]:
        attack, plan = jobs[0].attack, self.plan
        volumes = [self.case(job.case).volume for job in jobs]
        bound = [
            self.for_case(job.surrogate, volume)
            for job, volume in zip(jobs, volumes, strict=True)
            if job.surrogate is not None
        ]
        if attack is None or len(bound) < len(jobs):
            raise ValueError("expected jobs with an attack on a model, got others; craft them one by one")
        return craft_together(
            attack,
            bound,
            volumes,
            dataset=plan.dataset.name,
            protocol=plan.protocol,
            seed=plan.seed,
            device=plan.device,
            limit=self._max_cost,
            steps=self._begin(jobs[0], len(jobs)),
        )

    def run(self, job: Job, targets: Sequence[NamedModel] | None = None) -> list[Outcome | Failure]:
        """Craft the job's volume and score it on its targets (or some of them), in their order.

        A target that fails has a :class:`Failure` in its place; the others go on.

        Raises:
            CASE_FAILURES: the case cannot be read, or its volume cannot be crafted or written.
        """
        chosen = job.targets if targets is None else targets
        return [self.finish(scoring) for scoring in self.begin(job, chosen, self.craft(job))]

    def begin(self, job: Job, targets: Sequence[NamedModel], crafted: Crafted) -> list[Scoring | Failure]:
        """Have the targets predict a job's volume; scoring and writing it begin, and end with :meth:`finish`.

        Raises:
            CASE_FAILURES: the volume cannot be written.
        """
        kept, changes = self._keep(job, crafted), dict[bool, Later[Change]]()
        begun: list[Scoring | Failure] = []
        for target in targets:
            try:
                begun.append(self._score(job, target, crafted, kept, changes))
            except CASE_FAILURES as error:
                begun.append(Failure.of(error))
        return begun

    def finish(self, scoring: Scoring | Failure) -> Outcome | Failure:
        """What came of a scoring, waited for."""
        if isinstance(scoring, Failure):
            return scoring
        try:
            scored = scoring.scored()
        except CASE_FAILURES as error:
            return Failure.of(error)
        if self._watch is not None:
            self._watch(scored)
        return scored.outcome

    @property
    def full(self) -> bool:
        """Whether so much waits to be scored that nothing more should begin."""
        return self._desk.full

    def scored(self, job: Job, target: NamedModel) -> Scored:
        """As :meth:`run` for one target, with the volumes behind the numbers; a failure is raised.

        Raises:
            CASE_FAILURES: anything that went wrong.
        """
        crafted = self.craft(job)
        return self._score(job, target, crafted, self._keep(job, crafted), {}).scored()

    def truncates(self, job: Job, target: NamedModel) -> bool:
        """Whether the protocol puts 8 bits between the attacked model and this target."""
        source = job.saved.note.surrogate_sha256 if job.saved else job.surrogate and job.surrogate.sha256
        return self.plan.protocol.uint8 and source not in (None, target.sha256)

    def _prepare(self, case_id: str) -> PreparedCase:
        dataset = self.plan.dataset
        volume = dataset.load(case_id)
        for model in self.plan.models:
            if (share := model.filled(volume)) is not None:
                self.filled.setdefault(model.key, {})[case_id] = share
        scorer = prepare_scorer(dataset, volume, self.plan.protocol)
        self.windows[case_id] = volume.window
        if not getattr(dataset, "overlapping", ()):
            self.organs_ml[case_id] = organ_sizes(volume)
        return PreparedCase(volume, case_fingerprint(self.plan.dataset, volume), scorer)

    def _begin(self, job: Job, many: int) -> StepWatch:
        """Say what is in work; the watch of its steps."""
        parts, most = 1, 0
        if job.attack is not None and job.surrogate is not None:
            spatial = self.case(job.case).volume.image.shape[1:]
            parts = attacked_windows(self.plan.protocol, job.surrogate.predictor, spatial)
            most = parts * most_passes(job.attack.attack)
        steps = StepWatch(parts, most)
        self._doing = in_words(job, many), job, steps
        return steps

    def _known(self, volume: Volume) -> _OfCase:
        """What was computed of a volume; what is neither held nor the last one is forgotten."""
        found = self._of_case.get(volume.id)
        if found is None or found.volume is not volume:
            kept = {case: known for case, known in self._of_case.items() if case in self._held}
            self._of_case = {**kept, volume.id: (found := _OfCase(volume))}
        return found

    def _keep(self, job: Job, crafted: Crafted) -> tuple[Later[None], ...]:
        """Write the volume of an attack, where volumes are kept."""
        if self._save is None or job.attack is None:
            return ()
        case = self.case(job.case)
        note = self._save.note(job, case, crafted)
        image = crafted.images[0].cpu().numpy()
        return (self._desk.submit(case, write_volume, self._save.folder, image, note),)

    def _keep_predictions(self, job: Job, target: NamedModel, found: np.ndarray) -> Iterator[Later[None]]:
        """Write what a target predicts, and once what it predicts on the clean image, which may be recorded already."""
        if self._save is None or job.saved is not None:
            return
        case = self.case(job.case)
        known, wanted = self._known(case.volume), [] if job.clean else [(job, found)]
        if target.key not in known.written:
            wanted.append((Job(job.case, None, None, (target,)), known.clean[target.key]))
        for scored, prediction in wanted:
            unit = self._save.unit(scored, target, case)
            stored = prediction.astype(np.int16)
            yield self._desk.submit(case, write_prediction, stored, self._save.predictions, unit)
        known.written.add(target.key)

    def _score(
        self,
        job: Job,
        target: NamedModel,
        crafted: Crafted,
        kept: tuple[Later[None], ...],
        changes: dict[bool, Later[Change]],
    ) -> Scoring:
        case = self.case(job.case)
        volume = case.volume
        target = self.for_case(target, volume)
        truncated = self.truncates(job, target)
        images = truncate(crafted.images) if truncated else crafted.images
        if truncated not in changes:
            changes[truncated] = self._desk.submit(case, change_of, images[0].cpu().numpy())
        unharmed = self.clean(target, volume)
        prediction = unharmed if job.clean else predict(target, images)
        names = tuple(self.plan.dataset.class_names)
        before = None if job.clean else unharmed
        return Scoring(
            job=job,
            target=target,
            volume=volume,
            images=images,
            prediction=prediction,
            cost=crafted.cost,
            flags=tuple(sorted({*crafted.flags, *self.plan.protocol.flags, *target.flags})),
            patient=patient_of_several(self.plan.dataset, job.case),
            change=changes[truncated],
            judged=self._desk.submit(case, judge, prediction.astype(np.int16), before, names),
            kept=(*kept, *self._keep_predictions(job, target, prediction)),
        )
