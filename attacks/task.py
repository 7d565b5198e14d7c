"""One attacked batch: what an attack may ask for while it runs, and the best iterate so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from . import checks
from .counting import agreement
from .losses import LOSSES, TARGETED

#: where a sample lies in its images, one slice per spatial axis
Box = tuple[slice, ...]

#: (logits, step index) -> value per sample (B,), to be increased
Objective = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class StepInfo:
    """What `on_step` receives after every evaluated point.

    Attributes:
        step: index of the evaluated point; 0 is the start.
        steps: index of the last point that will be evaluated.
        loss: what the attack increases, at this point, shape (B,).
        metric: what the attack is for, lower is better, in [0, 1], shape (B,): the hard foreground Dice
            against the labels; with targets, one minus the Dice against the targets.
        best_step: index of the point that would be returned now, shape (B,).
            Equal to `steps` at the end: not converged. Equal to 0: no progress.
    """

    step: int
    steps: int
    loss: Tensor
    metric: Tensor
    best_step: Tensor


OnStep = Callable[[StepInfo], None]


@dataclass
class Task:
    """A validated batch, the model to attack, and one random stream per sample.

    Attributes:
        model: callable from images (B, C, *spatial) to logits (B, K, *spatial).
        images: clean images; never written to.
        labels: (B, 1, *spatial) int64, the reference to move away from.
        mask: (B, 1, *spatial) bool, True where a voxel counts, or None for all.
        seeds: one 63-bit seed per sample.
        on_step: observer of every evaluated point, or None.
        min_classes: least K that the attack can work with.
        targets: (B, 1, *spatial) int64, the segmentation to move to, or None for an untargeted attack.
        notes: what an attack has to say beside its result; whoever called it may have given the list.
        boxes: where each sample lies in its images; None where all fill them.
    """

    model: Callable[[Tensor], Any]
    images: Tensor
    labels: Tensor
    mask: Tensor | None
    seeds: Sequence[int]
    on_step: OnStep | None = None
    min_classes: int = 2
    targets: Tensor | None = None
    notes: list[Any] = field(default_factory=list)
    boxes: Sequence[Box] | None = None
    _streams: list[torch.Generator] = field(init=False)
    _classes: int = field(init=False, default=0)
    _connected: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    @property
    def aim(self) -> Tensor:
        """The segmentation that losses compare with: the targets, or else the labels."""
        return self.labels if self.targets is None else self.targets

    @property
    def direction(self) -> int:
        """+1 to increase the loss against `aim`, -1 (targeted) to decrease it."""
        return 1 if self.targets is None else -1

    def to_increase(self, value: Tensor) -> Tensor:
        """`direction` times a value, without asking a GPU to multiply by one."""
        return value if self.targets is None else -value

    @property
    def streams(self) -> Sequence[torch.Generator]:
        """One CPU generator per sample, for draws that are not shaped like the images."""
        return self._streams

    def sample(self, index: int, *, on_step: OnStep | None = None, min_classes: int | None = None) -> Task:
        """One sample as a task of its own, with its one seed, so that it gives what it gives when called alone.

        Args:
            index: of the sample.
            on_step: observer of this task; the batch's own is not called.
            min_classes: as the attack on this sample needs; None for the batch's.
        """
        one = slice(index, index + 1)
        return replace(
            self,
            images=self.images[one],
            labels=self.labels[one],
            mask=None if self.mask is None else self.mask[one],
            targets=None if self.targets is None else self.targets[one],
            seeds=[self.seeds[index]],
            boxes=None if self.boxes is None else [self.boxes[index]],
            on_step=on_step,
            min_classes=self.min_classes if min_classes is None else min_classes,
        )

    def given(self) -> dict[str, Any]:
        """What this task was made of, for a task of another kind."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    def afresh(self) -> Task:
        """The same batch, unobserved, with its random streams at their start; what was checked stays so."""
        task = replace(self, on_step=None)
        if self._classes:
            task._classes, task._connected = self._classes, self._connected
        return task

    def objective(self, loss: str) -> Objective:
        """The value to increase, (logits, step) -> (B,): one of `LOSSES`, its sign turned when targeted."""
        value = LOSSES[loss] if self.targets is None else TARGETED.get(loss, LOSSES[loss])
        return lambda logits, _: self.to_increase(value(logits, self.aim, self.mask))

    def logits(self, images: Tensor) -> Tensor:
        """Logits of the model, checked the first time, in float32 at least."""
        logits = self.model(images)
        if not self._classes:
            top = max(int(known.max()) for known in (self.labels, self.aim))
            checks.logits(logits, self.images, top, self.min_classes)
            self._classes = logits.shape[1]
        if images.requires_grad and not self._connected:
            checks.connected(logits, images)
            self._connected = True
        if type(logits) is not Tensor:
            logits = logits.as_subclass(Tensor)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def noise(self, draw: Callable[..., Tensor]) -> Tensor:
        """Noise like the images from `torch.rand` or `torch.randn`.

        Every sample draws from its own stream on the CPU, so neither its neighbors in
        the batch nor the device changes what it gets. Outside of its box there is none.
        """
        shape, dtype = self.images.shape[1:], self.images.dtype
        if self.boxes is None:
            drawn = [draw(shape, generator=stream, dtype=dtype) for stream in self._streams]
        else:
            drawn = [torch.zeros(shape, dtype=dtype) for _ in self.boxes]
            for whole, box, stream in zip(drawn, self.boxes, self._streams, strict=True):
                own = whole[(slice(None), *box)]
                own.copy_(draw(own.shape, generator=stream, dtype=dtype))
        return torch.stack(drawn).to(self.images.device)

    def metric(self, logits: Tensor) -> Tensor:
        """What the attack is for, lower is better, (B,) in [0, 1]; see `StepInfo.metric`."""
        return self.dice(logits) if self.targets is None else 1 - self.dice(logits)

    def dice(self, logits: Tensor) -> Tensor:
        """Hard foreground Dice against `aim` per sample, shape (B,), in [0, 1].

        Mean over the foreground classes found in the reference or the prediction: a class
        absent in both is skipped, absent in one counts 0. Without any such class: 1.
        """
        known = agreement(logits, self.aim, self.mask)
        scores = known.hits[:, 1:] / known.extent[:, 1:].clamp_min(1)
        mean = 2 * scores.sum(1) / known.count.clamp_min(1)
        return torch.where(known.count > 0, mean, 1.0)


class BestIterate:
    """Keeps, per sample, the visited point with the lowest metric; ties go to the higher loss.

    It reuses the logits that the attack computes anyway. A point with a non-finite loss never
    wins: argmax over NaN looks like a destroyed segmentation and is none. Before any point was
    kept, `images` are the clean ones.

    Args:
        task: the batch under attack.
        steps: index of the last point that will be offered.
        first: index of the first point; 1 where the clean volume, point 0, is not evaluated.
        observed: False keeps `task.on_step` uncalled, for a tracker beside the one that is.
    """

    def __init__(self, task: Task, steps: int, *, first: int = 0, observed: bool = True) -> None:
        self._task = task
        self._on_step = task.on_step if observed else None
        self._steps = steps
        self._step = first
        batch, device = task.images.shape[0], task.images.device
        self._metric = torch.full((batch,), torch.inf, device=device)
        self._loss = torch.full((batch,), -torch.inf, device=device, dtype=task.images.dtype)
        self._best_step = torch.zeros(batch, dtype=torch.int64, device=device)
        self.images = task.images

    def offer(self, images: Tensor, logits: Tensor, loss: Tensor, *, keep: bool = True) -> None:
        """Show one evaluated point; images are kept by reference and must not be written to later.

        With `keep=False` the point is only observed: it lies outside the ball and cannot be returned.
        """
        images, loss = images.detach(), loss.detach().to(self._loss.dtype)
        metric = self._task.metric(logits)
        better = (metric < self._metric) | ((metric == self._metric) & (loss > self._loss))
        better &= loss.abs() < torch.inf if keep else False
        self.images = choose(better, images, self.images)
        self._metric = torch.where(better, metric, self._metric)
        self._loss = torch.where(better, loss, self._loss)
        self._best_step = torch.where(better, self._step, self._best_step)
        if self._on_step is not None:
            self._on_step(StepInfo(self._step, self._steps, loss, metric, self._best_step))
        self._step += 1


def choose(samples: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Per sample `images` where `samples` (B,) is True, else `others`; any number of axes after the first."""
    return torch.where(samples.view(-1, *[1] * (images.ndim - 1)), images, others)


def input_gradient(loss: Tensor, variable: Tensor) -> Tensor:
    """Gradient of the summed per-sample losses; nothing is accumulated on parameters."""
    if not loss.requires_grad:
        checks.connected(loss, variable)  # says so
    return torch.autograd.grad(loss, variable, torch.ones_like(loss))[0]
