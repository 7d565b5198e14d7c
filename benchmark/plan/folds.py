"""Which of the data's cases an nnU-Net folder was trained on: what its files, those of the data and nnU-Net's rule say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustvox.datasets import DatasetError
from robustvox.datasets.folds import SPLITS, Fold, five_folds, read_folds
from robustvox.datasets.meta import read_json
from robustvox.models.bring.folds import Folds

ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Of the predictions that nnU-Net keeps of the cases a fold was validated on."""


def training_folds(folder: Path, cases: Sequence[str], data: Path | None) -> Folds | None:
    """The folds a model folder was trained in, as far as its own files and those of the data tell; else None.

    In this order: a ``splits_final.json`` in the model's folder, the one beside it, or the one in the data's folder; the
    five-fold rule, where the data are those of the training (``dataset.json`` of both say the same labels, channels and
    number of cases). Where a fold keeps its ``validation`` predictions, these tell what it held out.

    Args:
        folder: of the trained model, with its ``dataset.json``.
        cases: every id of the data.
        data: folder of the data, where they lie in one.

    Raises:
        DatasetError: a ``splits_final.json`` or ``dataset.json`` that is none.
    """
    known = set(cases)
    splits, source = _declared(folder, known, data)
    predicted = {}
    for path in folder.glob("fold_*/validation"):
        name, held_out = path.parent.name.removeprefix("fold_"), _validated(path) & known
        if name.isdigit() and held_out:
            predicted[int(name)] = held_out
    number = max([len(splits), *(name + 1 for name in predicted)])
    held_out, trained_on = [], []
    for index in range(number):
        declared = index < len(splits)
        fold = splits[index] if declared else Fold((), ())
        out = predicted.get(index, frozenset(fold.validation) & known)
        train = frozenset(fold.train) & known if declared else known
        held_out.append(frozenset(out))
        trained_on.append(frozenset(train - out) if out or declared else frozenset())
    if not any(held_out) and not any(trained_on):
        return None
    return Folds(held_out=tuple(held_out), trained_on=tuple(trained_on), source=source)


def _declared(folder: Path, known: set[str], data: Path | None) -> tuple[Sequence[Fold], str]:
    """The folds that a file or the rule tells, and which."""
    places = [folder / SPLITS, folder.parent / SPLITS, *([data / SPLITS] if data is not None else [])]
    file = next((place for place in places if place.is_file()), None)
    if file is not None:
        return read_folds(file), f"{SPLITS} of {file.resolve().parent.name}"
    if _same_data(read_json(folder / "dataset.json"), data, len(known)):
        return five_folds(sorted(known)), "nnU-Net's five-fold rule"
    return (), "the validation folders of the folds"


def _validated(folder: Path) -> frozenset[str]:
    """Ids of the cases whose predictions a fold kept: nnU-Net writes them for what it was validated on."""
    return frozenset(
        path.name.removesuffix(ending)
        for ending in ENDINGS
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith(".")
    )


def _same_data(dataset: Mapping[str, Any], data: Path | None, number: int) -> bool:
    """Whether the data are what the model was trained on, by what both say of themselves."""
    if data is None or not (data / "dataset.json").is_file():
        return False
    try:
        other = read_json(data / "dataset.json")
    except DatasetError:
        return False
    return _summary(dataset) == _summary(other) and dataset.get("numTraining") in (None, number)


def _summary(meta: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    labels = meta.get("labels", {})
    labels = labels if isinstance(labels, Mapping) else {}
    # The Decathlon writes {"1": name}, nnU-Net {name: 1}.
    by_id = all(str(key).isdigit() for key in labels)
    named = (
        {str(k): str(v) for k, v in labels.items()} if by_id else {str(v): str(k) for k, v in labels.items()}
    )
    channels = meta.get("channel_names") or meta.get("modality") or {}
    return named, [str(channels[key]) for key in sorted(channels)] if isinstance(channels, Mapping) else []
