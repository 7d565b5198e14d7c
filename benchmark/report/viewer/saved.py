"""Attacked cases from the files of a run: no network is loaded and nothing is attacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustvox.datasets import CaseError, Dataset

from ...craft.view import truncate
from ...harness.faults import CASE_FAILURES
from ...harness.scoring import PreparedCase, change_of, judge, prepare_scorer
from ...plan.saved import open_folder
from ...plan.source import case_fingerprint
from ...records.predictions import SavedPrediction, open_predictions
from ...records.unit import Unit
from ...records.volumes import Note, SavedVolume
from ...specs.protocols import Protocol
from ...specs.spec import CLEAN, UsageError
from .volumes import Attacked

REMEDY = "run it with --save-adversarial (and --recompute where it is recorded), or give --model and --attack to attack now"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a run kept and what is wanted of it.

    Args:
        folder: ``runs/<dataset>``.
        dataset: gives the clean cases.
        cases: ids.
        protocol: by which they were made.
        attacks: canonical specs; empty for all.
        targets: names of models; empty for all.
    """

    folder: Path
    dataset: Dataset
    cases: Sequence[str]
    protocol: Protocol
    attacks: Sequence[str] = ()
    targets: Sequence[str] = ()


def kept_cases(kept: Kept) -> tuple[Iterator[Attacked | tuple[str, BaseException]], tuple[str, ...]]:
    """Every saved volume of the cases on every model whose predictions lie beside it, and files that are none.

    A case that fails is its id and the reason.

    Raises:
        UsageError: no such volume was saved.
    """
    root = kept.folder / "adversarial"
    found = None
    if root.is_dir() and any(root.rglob("*.nii*")):
        found = open_folder(root, kept.dataset, kept.protocol.name, kept.cases)
    volumes = [v for v in found.volumes if not kept.attacks or v.note.attack in kept.attacks] if found else []
    refused = found.refused if found else ()
    missing = [case for case in kept.cases if case not in {volume.note.case for volume in volumes}]
    if missing and not refused:
        of = f" under {', '.join(kept.attacks)}" if kept.attacks else ""
        raise UsageError(
            f"expected saved volumes of {', '.join(missing)}{of} below {root}, found none; {REMEDY}"
        )
    return _each(kept, volumes), refused


def _each(kept: Kept, volumes: Sequence[SavedVolume]) -> Iterator[Attacked | tuple[str, BaseException]]:
    for case in kept.cases:
        mine = [volume for volume in volumes if volume.note.case == case]
        try:
            prepared = _prepare(kept, case)
        except CASE_FAILURES as error:
            yield case, error
            continue
        predictions, refused = open_predictions(kept.folder / "predictions", case)
        for reason in refused:
            yield case, ValueError(reason)
        for volume in mine:
            try:
                yield from _of_volume(kept, prepared, volume, predictions)
            except CASE_FAILURES as error:
                yield case, error


def _prepare(kept: Kept, case: str) -> PreparedCase:
    volume = kept.dataset.load(case)
    scorer = prepare_scorer(kept.dataset, volume, kept.protocol)
    return PreparedCase(volume, case_fingerprint(kept.dataset, volume), scorer)


def _of_volume(
    kept: Kept, case: PreparedCase, saved: SavedVolume, predictions: Sequence[SavedPrediction]
) -> Iterator[Attacked | tuple[str, BaseException]]:
    """One saved volume on every model that has predicted it and the clean image."""
    image = saved.load(case.volume, case.data_sha256)
    clean = {_model(p.unit): p for p in predictions if _is_clean(p.unit, saved.note)}
    attacked = [p for p in predictions if _belongs(p.unit, saved.note) and _model(p.unit) in clean]
    chosen = [p for p in attacked if not kept.targets or p.unit.target in kept.targets]
    if not chosen:
        whose = f" by {', '.join(kept.targets)}" if kept.targets else ""
        there = ", ".join(sorted({p.unit.target for p in attacked})) or "none"
        raise CaseError(
            case.volume.id,
            f"saved predictions{whose} of {saved.path.name} and of the clean image",
            f"those of {there}",
            REMEDY,
        )
    for prediction in chosen:
        try:
            yield _attacked(kept, case, image, clean[_model(prediction.unit)], prediction)
        except CASE_FAILURES as error:
            yield case.volume.id, error


def _attacked(
    kept: Kept, case: PreparedCase, image: object, clean: SavedPrediction, attacked: SavedPrediction
) -> Attacked:
    names, unit = tuple(kept.dataset.class_names), attacked.unit
    seen = torch.as_tensor(image)
    if kept.protocol.uint8 and unit.surrogate_sha256 != unit.target_sha256:
        seen = truncate(seen)
    before, after = (one.load(case.volume, len(names)) for one in (clean, attacked))
    same = (unit.surrogate, unit.surrogate_sha256) == _model(unit)
    return Attacked(
        volume=case.volume,
        image=seen.numpy(),
        clean=before,
        attacked=after,
        before=judge(case, before, None, names).scores,
        after=judge(case, after, before, names).scores,
        moved=change_of(case, seen.numpy()).distortion,
        unit=unit,
        models=unit.target if same else f"{unit.surrogate} → {unit.target}",
        class_names=names,
    )


def _model(unit: Unit) -> tuple[str, str]:
    return unit.target, unit.target_sha256


def _is_clean(unit: Unit, note: Note) -> bool:
    """Whether a prediction is one of the clean image that a volume was made from; no seed changes it."""
    same = ("case", "protocol", "data_sha256")
    return unit.attack == CLEAN and all(getattr(unit, name) == getattr(note, name) for name in same)


def _belongs(unit: Unit, note: Note) -> bool:
    """Whether a prediction is one of a saved volume."""
    same = ("case", "attack", "surrogate", "surrogate_sha256", "protocol", "seed", "data_sha256")
    return all(getattr(unit, name) == getattr(note, name) for name in same)
