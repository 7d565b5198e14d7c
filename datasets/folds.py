"""Folds of a cross-validation as nnU-Net has them: those of a ``splits_final.json``, and the five it makes without one.

The only place that knows the rule. The splits ``fold_0``, ``fold_1`` ... of a folder and the cases a model of nnU-Net
held out both come from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .documents import check, read_any
from .schemas import Splits

SPLITS = "splits_final.json"
"""nnU-Net's file of folds."""

FOLDS = 5
SEED = 12345
"""Of nnU-Net, where there is no such file."""


class Fold(NamedTuple):
    """Case ids that one fold is trained on, and those it holds out."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def five_folds(ids: Sequence[str]) -> tuple[Fold, ...]:
    """The folds nnU-Net makes when it is given none; none of fewer than five cases, where nnU-Net itself stops.

    It is scikit-learn's ``KFold(5, shuffle=True, random_state=12345)`` of the sorted ids.

    Example:
        >>> five_folds([f"case_{k}" for k in range(10)])[0].validation
        ('case_0', 'case_7')
    """
    names = sorted(ids)
    if len(names) < FOLDS:
        return ()
    shuffled = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(shuffled)
    held_out = [set(part.tolist()) for part in np.array_split(shuffled, FOLDS)]
    return tuple(
        Fold(
            tuple(name for k, name in enumerate(names) if k not in out),
            tuple(name for k, name in enumerate(names) if k in out),
        )
        for out in held_out
    )


def read_folds(path: Path) -> tuple[Fold, ...]:
    """The folds of a ``splits_final.json``.

    Raises:
        DatasetError: it is none.
    """
    document = read_any(path)
    check(Splits, document, path)
    # A case that is listed twice is held out once.
    return tuple(
        Fold(tuple(dict.fromkeys(fold["train"])), tuple(dict.fromkeys(fold["val"]))) for fold in document
    )
