"""What a defence is given at every step: the windows, the network, and attacks that leave no trace on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustvox.attacks import Attack
from robustvox.attacks.task import OnStep

from ..craft.crafting import derive_seed
from ..craft.meter import Meter
from .losses import masked_loss
from .windows import UNLABELLED, Draw, Windows, channels_last


@dataclass
class Gradients:
    """Gradients that were computed, one per window and pass: the cost of a training, whatever the machine.

    Attributes:
        outer: for the optimizer.
        inner: for attacks inside.
    """

    outer: int = 0
    inner: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One optimizer step.

    Args:
        network: in training mode.
        windows: on its device.
        criterion: of logits and targets.
        seed: of the training.
        number: counted from 0.
        memory: what the defence keeps from step to step; goes into saved states.
        gradients: counts of the whole training, moved on by whoever computes any.
    """

    network: nn.Module
    windows: Windows
    criterion: nn.Module
    seed: int
    number: int
    memory: dict[str, Tensor] = field(default_factory=dict)
    gradients: Gradients = field(default_factory=Gradients)

    @property
    def images(self) -> Tensor:
        """``(B, C, *roi)`` in [0, 1]."""
        return self.windows.images

    @property
    def counted(self) -> Tensor:
        """Where a voxel enters the loss; probabilities are all counted."""
        return self.windows.targets != UNLABELLED

    def loss(self, images: Tensor) -> Tensor:
        """The criterion of the network on these images, which stand in the place of the windows."""
        return self.loss_of(self.network(images))

    def loss_of(self, logits: Tensor) -> Tensor:
        """The criterion of these logits."""
        self.gradients.outer += len(logits)
        return masked_loss(self.criterion, logits, self.windows.targets, self.counted)

    def generator(self, draw: Draw) -> torch.Generator:
        """The random stream of a case in a pass: nothing else in the training enters, so a resumed one has it too."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "train", str(draw.epoch), draw.case))

    def attacked(self, attack: Attack, which: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """These windows under attack, ``(len(which), C, *roi)``; the network is left as it was found.

        Parameters are frozen and the network is in eval mode meanwhile (see :meth:`Attack.__call__`): neither
        statistics of batch normalization nor gradients nor any random stream but the window's own move.
        """
        index = torch.tensor(list(which), device=self.images.device)
        targets = self.windows.targets[index]
        labels = targets.argmax(1, keepdim=True) if targets.is_floating_point() else targets
        counted = self.counted[index]
        meter = Meter(self.network)
        images = self.images[index].contiguous(memory_format=channels_last(self.images.ndim - 2))
        changed = attack(
            meter,
            images,
            labels.clamp_min(0),
            None if bool(counted.all()) else counted,
            generator=[self.generator(self.windows.draws[i]) for i in which],
            on_step=on_step,
        )
        self.gradients.inner += meter.backwards * len(which)
        return changed

    def replaced(self, which: Sequence[int], images: Tensor) -> Tensor:
        """All images with these in the place of some, in the memory layout that the network is fast in."""
        mixed = self.images.clone()
        mixed[torch.tensor(list(which), device=mixed.device)] = images
        return mixed
