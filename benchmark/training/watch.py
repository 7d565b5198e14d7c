"""Clean and robust Dice while a network trains: which checkpoint is kept, and whether robustness is only apparent."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustvox.attacks import FGSM, PGD, Attack
from robustvox.datasets import Volume
from robustvox.models import SlidingWindow

from ..craft.crafting import derive_seed, labelled
from .card import mean_dice

STEPS = 10
"""Of the PGD that chooses the checkpoint."""

GAP = 0.1
"""How much Dice PGD may lose against FGSM, beyond what it lost at the first look, before a training is called overfitted."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Mean foreground Dice at one moment of a training.

    Attributes:
        step: optimizer steps so far; 0 before the first.
        clean, fgsm, pgd: Dice of the averaged weights without attack, under FGSM and under PGD-10, in [0, 1].
        outer, inner: gradients so far, see :class:`~robustvox.benchmark.training.step.Gradients`.
        seconds: of training so far, without looks.
    """

    step: int
    clean: float
    fgsm: float
    pgd: float
    outer: int = 0
    inner: int = 0
    seconds: float = 0.0


@dataclass(eq=False, kw_only=True)
class Watch:
    """Attacks the averaged weights now and then, and keeps those with the best Dice under PGD-10.

    Never the clean Dice: the most robust checkpoint is rarely the one that is best on clean volumes, and one that
    is merely accurate has the best clean Dice at step 0.

    Args:
        volumes: of the validation split.
        num_classes: K, background included.
        roi_size: window in voxels.
        eps: L-inf radius of both attacks.
        every: steps between two looks.
        seed: of the attacks' noise.
        device: where the network is.
        last: keep the weights of the last look instead, for controls: the question there is what the training does, and
            the weights that hold out best may well be those it began with.
    """

    volumes: Sequence[Volume]
    num_classes: int
    roi_size: Sequence[int]
    eps: float
    every: int
    seed: int = 0
    device: str | torch.device = "cpu"
    last: bool = False
    looks: list[Look] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def dice(self, network: nn.Module, attack: Attack | None) -> float:
        """Mean foreground Dice over the volumes, organs missing or invented counted as zero."""
        predictor = SlidingWindow(network, self.roi_size, overlap=0.5, sw_batch_size=4)
        return float(np.mean([self._one(predictor, attack, volume) for volume in self.volumes]))

    def _one(self, predictor: nn.Module, attack: Attack | None, volume: Volume) -> float:
        images = torch.from_numpy(volume.image)[None].to(self.device)
        if attack is not None:
            labels = torch.from_numpy(volume.label.astype(np.int64))[None, None].to(self.device)
            stream = torch.Generator().manual_seed(derive_seed(self.seed, "watch", volume.id))
            mask = labelled(volume, str(self.device))
            images = attack(predictor, images, labels, mask=mask, generator=stream)
        with torch.inference_mode():
            found = predictor(images).argmax(1)[0].cpu().numpy()
        found = found if volume.ignore is None else np.where(volume.ignore, 0, found)
        return mean_dice(found, volume.label, self.num_classes)

    def look(self, step: int, network: nn.Module, **cost: Any) -> Look:
        """Measure, and keep the weights where PGD leaves more than at every look before."""
        look = Look(
            step=step,
            clean=self.dice(network, None),
            fgsm=self.dice(network, FGSM(eps=self.eps)),
            pgd=self.dice(network, PGD(eps=self.eps, steps=STEPS)),
            **cost,
        )
        if self.last or not self.looks or look.pgd >= max(one.pgd for one in self.looks):
            self.best = copy.deepcopy(network.state_dict())
        self.looks.append(look)
        return look

    @property
    def chosen(self) -> Look:
        """The look whose weights are kept: the last of the best under PGD, or the last of all."""
        return self.looks[-1] if self.last else max(self.looks, key=lambda look: (look.pgd, look.step))

    def state(self) -> dict[str, Any]:
        """What a saved training keeps of it."""
        return {"looks": [asdict(look) for look in self.looks], "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take :meth:`state` back."""
        self.looks, self.best = [Look(**look) for look in state["looks"]], dict(state["best"])


def catastrophic(looks: Sequence[Look]) -> bool:
    """Whether the gap between FGSM and PGD has grown by more than :data:`GAP` from the first look to the last.

    Catastrophic overfitting of one-step training: Wong et al., ICLR 2020, arXiv 2001.03994.

    Example:
        >>> start = Look(step=0, clean=0.9, fgsm=0.7, pgd=0.6)
        >>> catastrophic([start, Look(step=9, clean=0.9, fgsm=0.85, pgd=0.6)])
        True
        >>> catastrophic([start, Look(step=9, clean=0.9, fgsm=0.8, pgd=0.75)])
        False
    """
    if len(looks) < 2:
        return False
    first, last = looks[0], looks[-1]
    return (last.fgsm - last.pgd) - (first.fgsm - first.pgd) > GAP
