"""The harness: crosses cases, surrogates, attacks and targets; one job crafts one adversarial volume.

An adversarial volume is crafted once per (surrogate, case, attack) and scored on every target that lacks its
record. Nothing here keeps state between jobs but caches, so the order of jobs changes no number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustvox.datasets import Dataset, DatasetError, Volume

from .attack_view import attack_view, truncate
from .distortion import measure
from .loading import NamedAttack, NamedModel
from .matching import matches, noise_spec
from .metering import Meter, StepWatch, Stopwatch
from .protocols import Protocol
from .records import RecordStore, Unit
from .saving import SavedVolume
from .scoring import Scorer
from .success import voxel_success

CLEAN = "none"
"""Attack name of the records that score the clean image."""

CASE_FAILURES = (DatasetError, ValueError, TypeError, RuntimeError, OSError, MemoryError)
"""What one case, attack or network may do to itself; it becomes a failed row and the others go on."""


@dataclass(frozen=True)
class Job:
    """Craft one volume (or take the ``saved`` one, else the clean one) and score it on ``targets``."""

    case: str
    surrogate: NamedModel | None
    attack: NamedAttack | None
    targets: tuple[NamedModel, ...]
    saved: SavedVolume | None = None

    @property
    def clean(self) -> bool:
        """Whether it is the clean image that is scored."""
        return self.attack is None and self.saved is None


class Scored(NamedTuple):
    """One prediction that was scored, as :attr:`Plan.watch` sees it.

    Attributes:
        job: what was crafted; its attack is None for the clean image.
        target: the model that predicted.
        volume: the case.
        image: what was predicted, ``(C, *spatial)``.
        prediction: class ids ``(*spatial)``.
        rows: its scores, one mapping per foreground class.
    """

    job: Job
    target: NamedModel
    volume: Volume
    image: np.ndarray
    prediction: np.ndarray
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """Everything a run crosses. Identical plans give identical records, whatever the order inside.

    Args:
        dataset: gives volumes by case id.
        cases: case ids, attacked independently.
        surrogates: models the attacks see.
        targets: models that are scored; with ``white_box`` each surrogate only on itself.
        attacks: what to run; the clean image is always scored.
        protocol: how volumes are predicted.
        seed: of all noise, mixed with dataset, case and attack.
        device: where networks run.
        white_box: score each surrogate's volumes on itself only.
        saved: adversarial volumes from files, scored on ``targets`` like those that are crafted.
        refused: files that were to be scored and cannot be, with the reason, a line each.
        save: called with (job, volume, adversarial, cost) after crafting.
        watch: called with every prediction that this process scores; pictures are made of them.
    """

    dataset: Dataset
    cases: Sequence[str]
    surrogates: Sequence[NamedModel]
    targets: Sequence[NamedModel]
    attacks: Sequence[NamedAttack]
    protocol: Protocol
    seed: int = 0
    device: str = "cpu"
    white_box: bool = True
    saved: Sequence[SavedVolume] = ()
    refused: Sequence[str] = ()
    save: Callable[[Job, Volume, np.ndarray, Mapping[str, Any]], None] | None = field(
        default=None, compare=False
    )
    clean: CleanPredictions = field(default_factory=lambda: CleanPredictions(), compare=False, repr=False)
    watch: Callable[[Scored], None] | None = field(default=None, compare=False)

    def jobs(self) -> Iterator[Job]:
        """Case by case: the clean image on all models, then every attack on every surrogate."""
        everyone = tuple({m.sha256 + m.name: m for m in (*self.surrogates, *self.targets)}.values())
        for case in self.cases:
            yield Job(case, None, None, everyone)
            for surrogate in self.surrogates:
                targets = (surrogate,) if self.white_box else tuple(self.targets)
                for attack in self.attacks:
                    yield Job(case, surrogate, attack, targets)
            for saved in self.saved:
                if saved.note.case == case:
                    yield Job(case, None, None, tuple(self.targets), saved)

    def unit(self, job: Job, target: NamedModel, data_sha256: str) -> Unit:
        """Identity of the record that scores ``job`` on ``target``."""
        attack, seed = job.attack.spec if job.attack else CLEAN, self.seed
        surrogate, surrogate_sha256 = (m := job.surrogate or target).name, m.sha256
        if job.saved is not None:
            note = job.saved.note
            attack, seed, surrogate, surrogate_sha256 = (
                note.attack, note.seed, note.surrogate, note.surrogate_sha256
            )  # fmt: skip
        return Unit(
            dataset=self.dataset.name,
            case=job.case,
            attack=attack,
            surrogate=surrogate,
            surrogate_sha256=surrogate_sha256,
            target=target.name,
            target_sha256=target.sha256,
            protocol=self.protocol.name,
            seed=seed,
            data_sha256=data_sha256,
        )


@dataclass(frozen=True)
class Event:
    """What happened to one job, for progress: computed, found in the records, or failed with ``error``."""

    job: Job
    status: str
    units: tuple[Unit, ...]
    error: str = ""


Outcome = tuple[list[dict[str, Any]], dict[str, Any]]
"""What scoring one target gives: a row per class, and the row of cost and budget."""

Submit = Callable[[Job, tuple[NamedModel, ...]], "Future[list[Outcome]]"]
"""Hands a job and its targets to another process."""


def execute(
    plan: Plan,
    store: RecordStore,
    provenance: str = "",
    *,
    recompute: bool = False,
    submit: Submit | None = None,
) -> Iterator[Event]:
    """Run every job of ``plan`` whose records are missing, appending as each finishes.

    Failures of a case or of an attack become failure rows; the iteration goes on. With ``submit`` the jobs run
    elsewhere and finish in any order; this process stays the only writer.
    """
    cases = CaseCache(plan)
    elsewhere: dict[Future[list[Outcome]], _Pending] = {}
    for job in plan.jobs():
        try:
            volume, data_sha256, scorer = cases(job.case)
        except CASE_FAILURES as error:
            yield _fail(plan, store, job, job.targets, "", error)
            continue
        units = tuple(plan.unit(job, target, data_sha256) for target in job.targets)
        missing = tuple(t for t, u in zip(job.targets, units, strict=True) if recompute or not store.done(u))
        pending = _Pending(job, missing, data_sha256, units, provenance)
        if not missing:
            yield Event(job, "recorded", units)
        elif submit is not None:
            elsewhere[submit(job, missing)] = pending
        else:
            yield _record(plan, store, pending, partial(compute, plan, job, missing, volume, scorer))
    for future in as_completed(elsewhere):
        yield _record(plan, store, elsewhere[future], future.result)


@dataclass(frozen=True)
class _Pending:
    """A job that has to be computed, and what its records will need."""

    job: Job
    targets: tuple[NamedModel, ...]
    data_sha256: str
    units: tuple[Unit, ...]
    provenance: str


def _record(plan: Plan, store: RecordStore, pending: _Pending, produce: Callable[[], list[Outcome]]) -> Event:
    try:
        for target, (scores, cost) in zip(pending.targets, produce(), strict=True):
            unit = plan.unit(pending.job, target, pending.data_sha256)
            store.append(unit, scores, {**cost, "provenance": pending.provenance})
    except CASE_FAILURES as error:
        return _fail(plan, store, pending.job, pending.targets, pending.data_sha256, error)
    return Event(pending.job, "computed", pending.units)


def _fail(
    plan: Plan,
    store: RecordStore,
    job: Job,
    targets: Sequence[NamedModel],
    data_sha256: str,
    error: BaseException,
) -> Event:
    text = " ".join(f"{error}".split()) or type(error).__name__
    units = tuple(plan.unit(job, target, data_sha256) for target in targets)
    for unit in units:
        store.fail(unit, text)
    return Event(job, "failed", units, text)


def compute(
    plan: Plan, job: Job, targets: Sequence[NamedModel], volume: Volume, scorer: Scorer
) -> list[Outcome]:
    """Craft the job's volume and score it on ``targets``, in their order."""
    for model in (*targets, *([job.surrogate] if job.surrogate else [])):
        _check_spacing(model, volume)
    images, cost, flags = craft(plan, job, volume)
    flags |= {*plan.protocol.flags}
    source = job.saved.note.surrogate_sha256 if job.saved else job.surrogate.sha256 if job.surrogate else None
    outcomes: list[Outcome] = []
    distances: dict[bool, dict[str, float]] = {}
    for target in targets:
        truncated = plan.protocol.uint8 and source not in (None, target.sha256)
        scored = truncate(images) if truncated else images
        if truncated not in distances:
            distances[truncated] = measure(scored[0].cpu().numpy(), volume.image)._asdict()
        unharmed = plan.clean(plan, target, volume)
        prediction = unharmed if job.clean else predict(target, scored)
        success = {} if job.clean else voxel_success(prediction, unharmed, volume.label)._asdict()
        rates = {f"asr_{where}": share for where, share in success.items()}
        rows = named_rows(plan, scorer(prediction))
        if plan.watch is not None:
            plan.watch(Scored(job, target, volume, scored[0].cpu().numpy(), prediction, rows))
        cells = {**cost, **distances[truncated], **rates, "flags": sorted({*flags, *target.flags})}
        outcomes.append((rows, cells))
    return outcomes


def _check_spacing(model: NamedModel, volume: Volume) -> None:
    """Refuse a case that a model which tells its spacing was not made for."""
    wanted, found = model.spacing_mm, tuple(float(side) for side in volume.spacing_mm)
    if wanted is not None and not np.allclose(found, wanted, rtol=0.01, atol=0):
        raise ValueError(
            f"expected a spacing of {' x '.join(f'{side:g}' for side in wanted)} mm, which {model.name} was trained "
            f"at, found {' x '.join(f'{side:g}' for side in found)} mm in {volume.id}; resample the data"
        )


def named_rows(plan: Plan, table: Any) -> list[dict[str, Any]]:
    """Scores of one prediction as records have them, a row per scored class."""
    names = plan.dataset.class_names
    return [{**row, "class_name": names[row["class_id"]]} for row in table.to_dict("records")]


def craft(plan: Plan, job: Job, volume: Volume) -> tuple[Tensor, dict[str, Any], set[str]]:
    """What a job scores, ``(1, C, *spatial)``: an adversarial volume, new or saved, or the clean image.

    Returns:
        The image, the passes and seconds it cost, and flags of the attack and of the attacked model.
    """
    clean = torch.from_numpy(volume.image)[None].to(plan.device)
    if job.saved is not None:
        image = job.saved.load(volume, data_fingerprint(volume))
        return torch.from_numpy(image)[None].to(plan.device), job.saved.note.cost, {*job.saved.note.flags}
    if job.attack is None or job.surrogate is None:
        return clean, {"forwards": 0, "backwards": 0, "seconds": 0.0}, set()
    images, cost, flags = _attack(plan, job.attack, job.surrogate, volume, clean)
    flags |= {*job.surrogate.flags}
    if plan.save is not None:
        plan.save(job, volume, images[0].cpu().numpy(), {**cost, "flags": tuple(sorted(flags))})
    return images, cost, flags


def _attack(
    plan: Plan, attack: NamedAttack, surrogate: NamedModel, volume: Volume, clean: Tensor
) -> tuple[Tensor, dict[str, Any], set[str]]:
    """The adversarial volume, what it cost, and what looked wrong while it was made."""
    labels = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(plan.device)
    generator = torch.Generator().manual_seed(
        derive_seed(plan.seed, plan.dataset.name, volume.id, noise_spec(attack.spec))
    )
    meter, steps = Meter(surrogate.predictor), StepWatch()
    with matches() as found, Stopwatch(plan.device) as watch:
        crafted = attack_view(plan.protocol, attack.attack, surrogate.predictor)
        adversarial = crafted(meter, clean, labels, generator=generator, on_step=steps)
    flags = steps.flags() | ({"unchanged"} if torch.equal(adversarial, clean) else set())
    flags |= {"unmatched" for match in found if not match.matched}
    cost = {"forwards": meter.forwards, "backwards": meter.backwards, "seconds": watch.seconds}
    return adversarial, cost, flags


@torch.no_grad()
def predict(model: NamedModel, images: Tensor) -> np.ndarray:
    """Label volume ``(*spatial)`` a model gives for one image ``(1, C, *spatial)``."""
    logits = model.predictor(images)
    if not torch.isfinite(logits).all():
        raise ValueError(f"expected finite logits from {model.name}, got NaN or infinity; check its weights")
    return logits.argmax(1)[0].cpu().numpy()


def derive_seed(seed: int, *parts: str) -> int:
    """63-bit seed of one case and attack, independent of everything else in the run."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def data_fingerprint(volume: Volume) -> str:
    """Hex sha256 of what is attacked and scored: image, label, spacing."""
    digest = hashlib.sha256(repr((volume.image.shape, volume.spacing_mm)).encode())
    digest.update(np.ascontiguousarray(volume.image).tobytes())
    digest.update(np.ascontiguousarray(volume.label.astype(np.int64)).tobytes())
    return digest.hexdigest()


class CleanPredictions:
    """What each model predicts on the clean image of the last case; every success rate needs it."""

    def __init__(self) -> None:
        self._volume: Volume | None = None
        self._of: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, plan: Plan, target: NamedModel, volume: Volume) -> np.ndarray:
        if volume is not self._volume:
            self._volume, self._of = volume, {}
        key = (target.name, target.sha256)
        if key not in self._of:
            image = torch.from_numpy(volume.image)[None].to(plan.device)
            self._of[key] = predict(target, image).astype(np.int16)
        return self._of[key]


class CaseCache:
    """The volume of the last cases with its fingerprint and what scoring reuses of it."""

    def __init__(self, plan: Plan) -> None:
        self._load = lru_cache(maxsize=2)(self._read)
        self._plan = plan
        self._errors: dict[str, BaseException] = {}

    def __call__(self, case: str) -> tuple[Volume, str, Scorer]:
        # A broken file is read once, not once per attack.
        if case in self._errors:
            raise self._errors[case]
        try:
            return self._load(case)
        except CASE_FAILURES as error:
            self._errors[case] = error
            raise

    def _read(self, case: str) -> tuple[Volume, str, Scorer]:
        dataset = self._plan.dataset
        volume = dataset.load(case)
        scorer = Scorer(
            self._plan.protocol,
            volume,
            num_classes=len(dataset.class_names),
            nsd_tolerance_mm=dataset.nsd_tolerance_mm,
        )
        return volume, data_fingerprint(volume), scorer


def describe_plan(plan: Plan) -> Mapping[str, Any]:
    """What goes into the provenance of a run besides the environment."""
    return {
        "dataset": dict(plan.dataset.provenance),
        "models": {m.name: m.sha256 for m in (*plan.surrogates, *plan.targets)},
        "attacks": [a.spec for a in plan.attacks],
        "surrogates": [m.name for m in plan.surrogates],
        "targets": [m.name for m in plan.targets],
        "white_box": plan.white_box,
        "cases": list(plan.cases),
        "seed": plan.seed,
    }
