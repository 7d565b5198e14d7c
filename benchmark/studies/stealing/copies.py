"""Copies on disk: ordinary checkpoints that say whose function they are and how it was got."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from robustvox.datasets import Dataset
from robustvox.models import (
    CATALOG,
    CheckpointError,
    ModelCard,
    SlidingWindow,
    load_checkpoint,
    save_checkpoint,
)

from ...records.provenance import version
from ...specs.spec import Spec
from ...training.recipe import Recipe
from ...training.train import optimize
from ...training.windows import Sample
from .calibration import Calibration
from .fitting import AnswerLoss
from .scans import Scan
from .thief import Steal, StolenModel, new_network


@dataclass(frozen=True, eq=False)
class Copy:
    """A stolen model as read from its file."""

    network: nn.Module
    roi_size: tuple[int, ...]
    calibration: Calibration | None
    queries: int

    def predictor(self) -> SlidingWindow:
        """On whole volumes."""
        return SlidingWindow(self.network, self.roi_size, sw_batch_size=4).eval()


def save_copy(
    path: Path, stolen: StolenModel, steal: Steal, dataset: Dataset, provenance: Mapping[str, str]
) -> str:
    """Write an ordinary checkpoint whose card tells of the theft; returns the file's sha256.

    Args:
        path: target file.
        stolen: the copy.
        steal: how it was got.
        dataset: names the classes.
        provenance: the victim's hash and whatever else tells where the copy comes from.
    """
    spec = Spec.parse(steal.architecture)
    calibration = None if stolen.calibration is None else asdict(stolen.calibration)
    card = ModelCard(
        architecture=spec.name,
        arguments={"size": "small", **spec.parameters},
        in_channels=dataset.in_channels,
        class_names=tuple(dataset.class_names),
        roi_size=stolen.roi_size,
        dataset=dataset.name,
        window=dataset.provenance["preprocessing"],
        recipe={
            "steps": steal.steps,
            "batch_size": steal.batch_size,
            "lr": steal.lr,
            "loss": "answers of a victim",
        },
        data={
            **provenance,
            "queries": stolen.queries,
            "calibration": json.dumps(calibration),
            "history": json.dumps([entry._asdict() for entry in stolen.history]),
        },
        seed=steal.seed,
        code_version=version(),
        source=CATALOG[spec.name].source,
    )
    return save_checkpoint(path, stolen.network, card)


def load_copy(path: Path, device: str | torch.device = "cpu", *, patients: str | None = None) -> Copy:
    """Read what :func:`save_copy` wrote.

    Args:
        path: the file.
        device: where the copy shall run.
        patients: refuse a copy that was made from others; blanks between the ids.

    Raises:
        CheckpointError: no checkpoint, not one of a theft, or of other patients.
    """
    loaded = load_checkpoint(path)
    if patients is not None and loaded.card.data.get("patients") != patients:
        raise CheckpointError(
            f"expected a copy made from the {len(patients.split())} patients of this study, found others on the card "
            f"of {path.name}; give another --out or remove the file"
        )
    try:
        told = json.loads(loaded.card.data["calibration"])
        calibration = (
            None if told is None else Calibration(**{key: tuple(value) for key, value in told.items()})
        )
        queries = int(loaded.card.data["queries"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected the card of a stolen model in {path.name}, found {error!r}"
        ) from error
    network = loaded.network.to(device).requires_grad_(False)
    return Copy(network, loaded.card.roi_size, calibration, queries)


def train_on_truth(
    steal: Steal,
    scans: Sequence[Scan],
    reference: Sequence[Scan],
    labels: Mapping[str, np.ndarray],
    *,
    device: str | torch.device = "cpu",
) -> StolenModel:
    """What the thief could have had by labelling: as many of its own volumes, calibrated, with the truth.

    The same network, recipe, calibration and number of volumes as ``steal``, no queries, one round.
    """
    calibration = steal.power.fit(reference, scans)
    order = np.random.default_rng(steal.seed).permutation(len(scans))[: steal.budget]
    answers = []
    for scan in (scans[i] for i in order):
        image = calibration.to_a(torch.from_numpy(scan.image)[None], scan.spacing_mm).clamp(0, 1)[0]
        answers.append(Sample(image, torch.from_numpy(labels[scan.id].astype(np.int64))[None]))
    network = new_network(steal, scans[0].image.shape[0]).to(device)
    recipe = Recipe(steps=steal.steps, batch_size=steal.batch_size, lr=steal.lr)
    copy = optimize(network, answers, steal.roi_size, recipe, AnswerLoss(), seed=steal.seed).averaged
    return StolenModel(copy, steal.roi_size, calibration, 0, ())
