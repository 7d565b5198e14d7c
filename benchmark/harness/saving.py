"""Where crafted volumes go, each with the note that lets it be scored again, and what was predicted on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..craft.crafting import Crafted
from ..craft.named import NamedModel
from ..plan.plan import Job, Plan
from ..records.predictions import save_prediction
from ..records.unit import Unit
from ..records.volumes import Note, save_adversarial
from ..specs.crossing import Writing
from .scoring import PreparedCase


@dataclass(frozen=True)
class Saver:
    """Every crafted volume is written below ``folder``, and every prediction beside it.

    Args:
        plan: names the record a volume belongs to.
        folder: ``results/<dataset>/adversarial``.
        units: of the intensities in the file, among :data:`~robustvox.benchmark.specs.crossing.UNITS`.
    """

    plan: Plan
    folder: Path
    units: str

    @property
    def predictions(self) -> Path:
        """``results/<dataset>/predictions``: not among the volumes, which are scored again as a whole."""
        return self.folder.parent / "predictions"

    def unit(self, job: Job, target: NamedModel, case: PreparedCase) -> Unit:
        """What the file of a prediction says of it."""
        return self.plan.unit(job, target, case.data_sha256)

    def note(self, job: Job, case: PreparedCase, crafted: Crafted) -> Note:
        """What the file says of the volume."""
        unit = self.plan.unit(job, job.targets[0], case.data_sha256)
        return Note(
            key=unit.key,
            units=self.units,
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


def requested_saver(writing: Writing | None, plan: Plan) -> Saver | None:
    """The saver that a request asks for, None where it asks for none."""
    if writing is None or not writing.save_adversarial:
        return None
    return Saver(plan, writing.out / plan.dataset.name / "adversarial", writing.units)


def write_volume(case: PreparedCase, folder: Path, image: np.ndarray, note: Note) -> None:
    """Write the adversarial image ``(C, *spatial)`` of a case."""
    save_adversarial(folder, case.volume, image, note)


def write_prediction(case: PreparedCase, prediction: np.ndarray, folder: Path, unit: Unit) -> None:
    """Write the class ids ``(*spatial)`` that a model predicted."""
    save_prediction(folder, case.volume, prediction, unit)
