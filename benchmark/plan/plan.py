"""A plan: what a run crosses, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustvox.datasets import Dataset

from ..craft.named import NamedAttack, NamedModel
from ..records.coverage import labelled
from ..records.unit import Unit
from ..records.volumes import SavedVolume
from ..specs.protocols import Protocol
from ..specs.spec import CLEAN


def once(models: Iterable[NamedModel]) -> tuple[NamedModel, ...]:
    """Each model once, in the order given."""
    return tuple({model.key: model for model in models}.values())


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

    @property
    def models(self) -> tuple[NamedModel, ...]:
        """Every model once, surrogates first."""
        return once((*self.surrogates, *self.targets))

    def jobs(self) -> Iterator[Job]:
        """Case by case: the clean image on all models, then every attack on every surrogate."""
        for case in self.cases:
            yield Job(case, None, None, self.models)
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
        surrogate, surrogate_sha256 = (job.surrogate or target).key
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


def describe_plan(plan: Plan) -> Mapping[str, Any]:
    """What goes into the provenance of a run besides the environment.

    Models go by their names, and by :func:`~robustvox.benchmark.records.coverage.labelled` ones where several
    checkpoints of the run have one name.
    """
    names = Counter(name for name, _ in {m.key for m in plan.models})

    def label(model: NamedModel) -> str:
        return labelled(*model.key) if names[model.name] > 1 else model.name

    licences = {label(m): m.licence for m in plan.models if m.licence}
    return {
        **({"licences": licences} if licences else {}),
        "dataset": dict(plan.dataset.provenance),
        "models": {label(m): m.sha256 for m in plan.models},
        "attacks": [a.spec for a in plan.attacks],
        "surrogates": [label(m) for m in plan.surrogates],
        "targets": [label(m) for m in plan.targets],
        "white_box": plan.white_box,
        "cases": list(plan.cases),
        "seed": plan.seed,
    }
