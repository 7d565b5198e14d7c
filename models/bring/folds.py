"""Which cases a fold of an nnU-Net model was trained on, and which it was validated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..documents import JSON_BYTES, checked, parse_json, read_bytes, read_document
from ..header import CheckpointError
from .schemas import Splits, TrainedOn

FOLDS = 5
SEED = 12345
"""Of nnU-Net's split into five folds where nobody wrote a `splits_final.json`."""

SPLITS = "splits_final.json"


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of a training, among the cases of the data.

    Args:
        held_out: case ids that each fold was validated on.
        trained_on: case ids that each fold was trained on.
        source: where that is known from.
    """

    held_out: tuple[frozenset[str], ...]
    trained_on: tuple[frozenset[str], ...]
    source: str

    def of(self, name: str) -> tuple[frozenset[str], frozenset[str]] | None:
        """Held out and trained on by the fold ``name``; None for a number that is no fold."""
        if name == "all":
            everything = frozenset().union(*self.held_out, *self.trained_on)
            return frozenset(), everything
        if not name.isdigit() or int(name) >= len(self.held_out):
            return None
        return self.held_out[int(name)], self.trained_on[int(name)]


def five_folds(cases: Sequence[str]) -> list[dict[str, list[str]]]:
    """nnU-Net's own folds: `sklearn.model_selection.KFold(5, shuffle=True, random_state=12345)` of the sorted ids.

    Example:
        >>> [fold["val"] for fold in five_folds(["a", "b", "c", "d", "e"])]
        [['a'], ['e'], ['d'], ['b'], ['c']]
    """
    names = sorted(cases)
    shuffled = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(shuffled)
    folds = []
    for held_out in np.array_split(shuffled, FOLDS):
        out = set(held_out.tolist())
        folds.append(
            {
                "train": [name for i, name in enumerate(names) if i not in out],
                "val": [name for i, name in enumerate(names) if i in out],
            }
        )
    return folds


def find_folds(
    folder: Path, dataset: Mapping[str, Any], cases: Sequence[str], data: Path | None
) -> Folds | None:
    """The folds a model folder was trained in, as far as its own files and those of the data tell; else None.

    In this order: a ``splits_final.json`` in the model's folder, the one beside it, or the one in the data's folder; the
    five-fold rule, where the data are those of the training (``dataset.json`` of both say the same labels, channels and
    number of cases). Where a fold keeps its ``validation`` predictions, these tell what it held out.

    Args:
        folder: of the trained model.
        dataset: its ``dataset.json``.
        cases: every id of the data.
        data: folder of the data, where they lie in one.

    Raises:
        CheckpointError: a ``splits_final.json`` that is none.
    """
    places = [folder / SPLITS, folder.parent / SPLITS, *([data / SPLITS] if data is not None else [])]
    file = next((place for place in places if place.is_file()), None)
    known = set(cases)
    if file is not None:
        splits, source = _read(file), f"{SPLITS} of {file.resolve().parent.name}"
    elif len(known) >= FOLDS and _same_data(dataset, data, len(known)):
        splits, source = five_folds(sorted(known)), "nnU-Net's five-fold rule"
    else:
        splits, source = [], "the validation folders of the folds"
    predicted = {}
    for path in folder.glob("fold_*/validation"):
        name, held_out = path.parent.name.removeprefix("fold_"), _validated(path) & known
        if name.isdigit() and held_out:
            predicted[int(name)] = held_out
    number = max([len(splits), *(name + 1 for name in predicted)])
    if not number:
        return None
    held_out, trained_on = [], []
    for index in range(number):
        fold = splits[index] if index < len(splits) else {"train": [], "val": []}
        out = predicted.get(index, frozenset(fold["val"]) & known)
        train = frozenset(fold["train"]) & known if index < len(splits) else known
        held_out.append(frozenset(out))
        trained_on.append(frozenset(train - out) if out or index < len(splits) else frozenset())
    if not any(held_out) and not any(trained_on):
        return None
    return Folds(held_out=tuple(held_out), trained_on=tuple(trained_on), source=source)


def _read(file: Path) -> list[dict[str, list[str]]]:
    where = f"{file.name} of {file.parent.name}"
    content = parse_json(read_bytes(file, JSON_BYTES), where)
    folds = checked(Splits, content, where).root
    return [{"train": [*map(str, fold.train)], "val": [*map(str, fold.val)]} for fold in folds]


def _validated(folder: Path) -> frozenset[str]:
    """Ids of the cases whose predictions a fold kept: nnU-Net writes them for what it was validated on."""
    return frozenset(
        path.name.removesuffix(ending)
        for ending in (".nii.gz", ".nii", ".mha", ".nrrd")
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith(".")
    )


def _same_data(dataset: Mapping[str, Any], data: Path | None, number: int) -> bool:
    """Whether the data are what the model was trained on, by what both say of themselves."""
    if data is None or not (data / "dataset.json").is_file():
        return False
    try:
        other = read_document(data / "dataset.json")
        checked(TrainedOn, other, "dataset.json")
    except CheckpointError:
        return False
    mine, theirs = (_summary(meta) for meta in (dataset, other))
    return mine == theirs and dataset.get("numTraining") in (None, number)


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
