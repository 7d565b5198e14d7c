"""One adversarial volume, what it cost, and what looked wrong while it was made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustvox.datasets import Volume

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


def craft(
    attack: NamedAttack,
    surrogate: NamedModel,
    volume: Volume,
    *,
    dataset: str,
    protocol: Protocol,
    seed: int,
    device: str,
    limit: int | None = None,
) -> Crafted:
    """Attack one volume on one model, with the noise that :func:`noise_generator` gives.

    Args:
        attack, surrogate: who attacks what.
        volume: the case.
        dataset: its name, which enters the seed.
        protocol: how the attack sees the model.
        seed: of the run.
        device: where the network is.
        limit: forward and backward passes that are allowed; None for any number.

    Raises:
        ValueError: for more passes than the limit, for a model that does not fit the case or the protocol, or
            whatever the attack refuses.
    """
    surrogate = surrogate.for_case(volume)
    clean = torch.from_numpy(volume.image)[None].to(device)
    labels = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(device)
    mask = labelled(volume, device)
    generator = noise_generator(seed, dataset, volume.id, attack.spec)
    meter, steps = Meter(surrogate.predictor, limit), StepWatch()
    notes: list[object] = []
    with Stopwatch(device) as watch:
        fitted = attack.attack.at_spacing(volume.spacing_mm)
        crafted = attack_view(protocol, fitted, surrogate.predictor)
        adversarial = crafted(
            meter, clean, labels, mask=mask, generator=generator, on_step=steps, notes=notes
        )
    flags = {*surrogate.flags, *steps.flags()} | ({"unchanged"} if torch.equal(adversarial, clean) else set())
    flags |= {"unmatched" for note in notes if isinstance(note, Match) and not note.matched}
    return Crafted(adversarial, Cost(meter.forwards, meter.backwards, watch.seconds), frozenset(flags))


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
