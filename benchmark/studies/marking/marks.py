"""The marks that are studied, made for one volume with one key."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.attacks import Key, KeyedMark
from robustvox.attacks.base import Model
from robustvox.attacks.keyed_mark import predicted_labels
from robustvox.attacks.surrogates import Surrogates
from robustvox.datasets import Volume

from ...craft.named import NamedModel

SALT = hashlib.sha256(b"robustvox study of marks").digest()[:16]
"""Public and fixed, so that the study gives the same marks every time. `mark` draws a fresh one."""


@dataclass(frozen=True)
class StudiedMark:
    """A mark, the models it is made on, and whether every remover meets every model."""

    name: str
    attack: KeyedMark
    surrogates: tuple[NamedModel, ...]
    thorough: bool = False

    @property
    def made_on(self) -> str:
        """Names of the surrogates."""
        return "+".join(model.name for model in self.surrogates)

    def model(self, volume: Volume) -> Model:
        """What is attacked: the surrogate as it reads a case, or all of them as one."""
        return as_one([model.for_case(volume) for model in self.surrogates])


@dataclass(frozen=True)
class MarkedCase:
    """A marked image ``(C, *spatial)`` and the seconds it took."""

    image: np.ndarray
    seconds: float


def studied_marks(surrogates: Sequence[NamedModel]) -> list[StudiedMark]:
    """Field, field outside the label, fused field where there are two surrogates, logo."""
    first, everyone = (surrogates[0],), tuple(surrogates)
    marks = [
        StudiedMark("field", KeyedMark(), first, thorough=True),
        StudiedMark("field outside", KeyedMark(support="outside", margin_mm=2.0), first),
        StudiedMark("logo", KeyedMark(kind="logo", steps=40), first),
    ]
    if len(everyone) > 1:
        marks.insert(1, StudiedMark("field fused", KeyedMark(), everyone))
    return marks


def as_one(models: Sequence[NamedModel]) -> nn.Module:
    """The predictor of one model, or of several by the mean of their log probabilities."""
    predictors = [model.predictor for model in models]
    return predictors[0] if len(predictors) == 1 else Surrogates(predictors)


def owner_key(seed: int) -> Key:
    """The key of one repetition; of no use to anybody, since it stands here."""
    return Key(f"robustvox study of marks, owner {seed}".encode())


def make_mark(
    mark: StudiedMark, volume: Volume, image: np.ndarray, labels: np.ndarray | None, key: Key, device: str
) -> MarkedCase:
    """Mark an image of a case; without labels on what the surrogates themselves predict."""
    started = time.perf_counter()
    images = torch.from_numpy(image)[None].to(device)
    model = mark.model(volume)
    truth = predicted_labels(model, images) if labels is None else as_labels(labels, device)
    attack = mark.attack.at_spacing(volume.spacing_mm)
    marked = attack(model, images, truth, generator=key.generator(SALT, volume.id))
    return MarkedCase(marked[0].cpu().numpy(), time.perf_counter() - started)


def as_labels(labels: np.ndarray, device: str) -> Tensor:
    """Class ids ``(*spatial)`` as attacks take them."""
    return torch.from_numpy(labels.astype(np.int64))[None, None].to(device)
