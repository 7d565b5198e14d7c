"""One adversarial volume, what it cost, and what looked wrong while it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from robustvox.attacks.task import Box
from robustvox.datasets import Volume
from robustvox.models import SlidingWindow

from ..specs.matched import noise_spec
from ..specs.protocols import Protocol
from .matched import Match
from .meter import Cost, Meter, StepWatch, Stopwatch
from .named import NamedAttack, NamedModel
from .view import attack_view


@dataclass(frozen=True)
class Crafted:
    """What a job scores.

    Attributes:
        images: ``(1, C, *spatial)`` in [0, 1], on the device of the networks.
        cost: of crafting it.
        flags: of the attack and of the attacked model.
    """

    images: Tensor
    cost: Cost
    flags: frozenset[str] = frozenset()


class How(TypedDict):
    """What else crafting takes: see :func:`craft`."""

    dataset: str
    protocol: Protocol
    seed: int
    device: str
    limit: NotRequired[int | None]
    steps: NotRequired[StepWatch | None]


def craft(attack: NamedAttack, surrogate: NamedModel, volume: Volume, **how: Unpack[How]) -> Crafted:
    """Attack one volume on one model, with the noise that :func:`noise_generator` gives.

    Args:
        attack, surrogate: who attacks what.
        volume: the case.
        dataset: its name, which enters the seed.
        protocol: how the attack sees the model.
        seed: of the run.
        device: where the network is.
        limit: forward and backward passes that are allowed; None for any number.
        steps: watches the attack; None for a watch of its own.

    Raises:
        ValueError: for more passes than the limit, for a model that does not fit the case or the protocol, or
            whatever the attack refuses.
    """
    (crafted,) = craft_together(attack, [surrogate.for_case(volume)], [volume], **how)
    return crafted


def craft_together(
    attack: NamedAttack,
    surrogates: Sequence[NamedModel],
    volumes: Sequence[Volume],
    *,
    dataset: str,
    protocol: Protocol,
    seed: int,
    device: str,
    limit: int | None = None,
    steps: StepWatch | None = None,
) -> list[Crafted]:
    """Attack volumes on one model in one batch; each gets what :func:`craft` gives it, up to rounding.

    The seconds of the batch are shared out evenly. Passes are those of each volume: an attack that may run so makes
    every pass with all of them.

    Args:
        attack: who attacks.
        surrogates: the model, per volume as it reads that case.
        volumes: cases of one :class:`~robustvox.benchmark.craft.batches.Company`.
        dataset, protocol, seed, device, limit, steps: as in :func:`craft`.

    Raises:
        ValueError: as :func:`craft`, for any of the volumes.
    """
    predictor = surrogates[0].predictor
    batch = _Batch.of(volumes, predictor, device)
    generators = [noise_generator(seed, dataset, volume.id, attack.spec) for volume in volumes]
    meter, steps = Meter(predictor, limit), StepWatch() if steps is None else steps
    steps.passed = lambda: meter.forwards + meter.backwards
    notes: list[object] = []
    with Stopwatch(device) as watch:
        fitted = attack.attack.at_spacing(volumes[0].spacing_mm)
        crafted = attack_view(protocol, fitted, predictor)
        adversarial = crafted(
            meter,
            batch.images,
            batch.labels,
            mask=batch.mask,
            generator=generators,
            on_step=steps,
            notes=notes,
            **batch.placed,
        )
    cost = Cost(meter.forwards, meter.backwards, watch.seconds / len(volumes))
    unmatched = {"unmatched" for note in notes if isinstance(note, Match) and not note.matched}
    found = []
    for index, surrogate in enumerate(surrogates):
        images, clean = batch.own(adversarial, index), batch.own(batch.images, index)
        flags = {*surrogate.flags, *steps.flags(index), *unmatched}
        flags |= {"unchanged"} if torch.equal(images, clean) else set()
        found.append(Crafted(images, cost, frozenset(flags)))
    return found


@dataclass(frozen=True)
class _Batch:
    """Volumes in one tensor; those of different shapes where the model's window has them, and zeros around."""

    images: Tensor
    labels: Tensor
    mask: Tensor | None
    boxes: list[Box] | None

    @property
    def placed(self) -> dict[str, list[Box]]:
        """What the attack is told besides; nothing where every volume fills the tensor."""
        return {} if self.boxes is None else {"boxes": self.boxes}

    def own(self, images: Tensor, index: int) -> Tensor:
        """One volume ``(1, C, *spatial)`` of the batch."""
        if len(images) == 1:
            return images
        box = () if self.boxes is None else self.boxes[index]
        return images[(slice(index, index + 1), slice(None), *box)].clone(
            memory_format=torch.contiguous_format
        )

    @classmethod
    def of(cls, volumes: Sequence[Volume], predictor: object, device: str) -> _Batch:
        images = [torch.from_numpy(volume.image)[None] for volume in volumes]
        labels = [torch.from_numpy(volume.label.astype(np.int64))[None, None] for volume in volumes]
        masks = [labelled(volume, "cpu") for volume in volumes]
        masked = any(mask is not None for mask in masks)
        counted = [
            torch.ones_like(label, dtype=torch.bool) if mask is None else mask
            for label, mask in zip(labels, masks, strict=True)
        ]
        boxes = None
        if len({image.shape for image in images}) > 1:
            if not isinstance(predictor, SlidingWindow):
                raise TypeError(
                    f"expected volumes of one shape for {type(predictor).__name__}, got several; attack them one by one"
                )
            boxes = [predictor.place(image.shape[2:]) for image in images]
            images, labels, counted = (
                [_placed(one, box, predictor.roi_size) for one, box in zip(parts, boxes, strict=True)]
                for parts in (images, labels, counted)
            )
        return cls(
            torch.cat(images).to(device),
            torch.cat(labels).to(device),
            torch.cat(counted).to(device) if masked else None,
            boxes,
        )


def _placed(values: Tensor, box: Box, spatial: Sequence[int]) -> Tensor:
    """A volume ``(1, C, *spatial)`` in a larger one of zeros."""
    whole = values.new_zeros((*values.shape[:2], *spatial))
    whole[(..., *box)] = values
    return whole


def labelled(volume: Volume, device: str) -> Tensor | None:
    """Where a voxel counts in an attack's loss, ``(1, 1, *spatial)``; None for everywhere."""
    return None if volume.ignore is None else torch.from_numpy(~volume.ignore)[None, None].to(device)


def noise_generator(seed: int, dataset: str, case: str, spec: str) -> torch.Generator:
    """The random stream of an attack on a case: the one rule, for runs, checks, figures and recomputation alike.

    A matched attack draws with the seed of its reference, so that the reference inside gives the very volume of
    its own row. Nothing else in a run enters, neither its other attacks nor the order of its jobs.

    Example:
        >>> one = noise_generator(0, "phantom", "val_000", "uniform:eps=0.1@l2~0.02=gn:std=0.02")
        >>> same = noise_generator(0, "phantom", "val_000", "gn:std=0.02")
        >>> one.initial_seed() == same.initial_seed()
        True
    """
    return torch.Generator().manual_seed(derive_seed(seed, dataset, case, noise_spec(spec)))


def derive_seed(seed: int, *parts: str) -> int:
    """63 bits that depend on a seed and some names, and on nothing else in a run.

    Example:
        >>> derive_seed(0, "phantom", "val_000") == derive_seed(0, "phantom", "val_001")
        False
    """
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
