"""The attack object: a frozen record of hyper-parameters, called with the model to attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from . import checks
from .losses import LOSSES, MIN_CLASSES
from .task import Box, OnStep, Task

Generators = torch.Generator | Sequence[torch.Generator]
Model = Callable[[Tensor], Any]

_SLACK = 1e-6  # how far rounding may carry an iterate out of its ball before that is a defect


class Sharing(IntEnum):
    """Which samples an attack may treat in one call, so that each gets what it gets alone and costs what it costs.

    Every attack gives a batch what its items get. Yet one that walks through its batch item by item gains nothing by
    it and spends passes that are not every item's, and what is taken over a whole volume, a norm, blocks, a
    similarity, changes where the volume lies in a larger one.
    """

    ALONE = 0
    EQUAL_SHAPES = 1
    ANY_SHAPES = 2


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Base class of all attacks; subclasses add hyper-parameters as fields and write `perturb`.

    An attack holds no model, no tensors and no state: it pickles to a few bytes, compares by
    value, and `dataclasses.asdict` is its complete description.
    """

    #: False where no gradient or query could follow a target (noise).
    takes_targets: ClassVar[bool] = True

    #: What this very class was tested to do; a subclass says it for itself, or its samples are attacked alone.
    sharing: ClassVar[Sharing] = Sharing.ALONE

    def __post_init__(self) -> None:  # noqa: B027
        """Check the hyper-parameters; subclasses call super first."""

    @property
    def shares(self) -> Sharing:
        """Which samples may be attacked together; an attack made of others shares no more than they do."""
        return vars(type(self)).get("sharing", Sharing.ALONE)

    @property
    def min_classes(self) -> int:
        """Least number of classes K that the attack can work with."""
        return 2

    @property
    def radius(self) -> float | None:
        """L-inf radius that the result is guaranteed to respect, or None."""
        return None

    def at_spacing(self, spacing_mm: Sequence[float]) -> Attack:  # noqa: ARG002
        """This attack for a volume with voxels of these sides (mm): itself, unless it measures distances."""
        return self

    @abstractmethod
    def perturb(self, task: Task) -> Tensor:
        """The adversarial images of a validated batch, gradients enabled, model frozen."""

    @final
    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
        targets: Tensor | None = None,
        notes: list[Any] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Craft adversarial images.

        The model runs in eval mode with frozen parameters and gets both back on any exit.
        Inputs, gradients of parameters and the global random state are left alone. Attacking a
        batch equals attacking its items one after another with the same generator.

        Args:
            model: maps images to logits (B, K, *spatial), K >= 2; differentiable; an `nn.Module` or any
                callable.
            images: intensities in [0, 1], float32 or float64.
            labels: class indices in [0, K), int64.
            mask: bool, True where a voxel counts in loss and metric; None means everywhere. The
                perturbation itself is not masked.
            generator: source of the random starts: one generator, from which every sample takes exactly
                one 63-bit seed in order, or a sequence of B generators; None means seed 0.
            on_step: called with a `StepInfo` after every evaluated point.
            targets: class indices in [0, K), int64: the segmentation that the model shall be led to. None
                attacks untargeted. Targets are the caller's choice and never default to the labels.
            notes: a list that receives what the attack has to say beside its result; most say nothing.
            boxes: where each sample lies, one slice per spatial axis, when samples of different shapes share a
                batch. The model sees the images as they were given everywhere else, nothing there counts or moves,
                and noise is drawn in the sample's own shape: inside its box a sample gets what it gets alone, up
                to rounding. None: every sample fills the images.

        Shape:
            images (B, C, *spatial) with at least two spatial axes of any size;
            labels, mask and targets (B, 1, *spatial).

        Returns:
            Detached plain tensor, same shape, dtype and device as `images`, in [0, 1].

        Raises:
            TypeError: if an argument or the model output is no tensor, or the model is not callable.
            ValueError: if shapes, dtypes, devices, ranges, labels, mask, targets or logits do not fit, if the
                targets of a sample are its labels, or if the attack knows no targets.
            RuntimeError: if `perturb` broke its own budget (a defect of the attack).
        """
        if not callable(model):
            raise TypeError(
                f"model: expected a callable, got {type(model).__name__}. Call attack(model, images, labels)"
            )
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            # The copy is an ordinary tensor even if the caller sits in inference mode.
            clean = checks.images(images).clone()
            truth = checks.labels(labels, clean).clone()
            counted = checks.mask(mask, clean)
            counted = None if counted is None else counted.clone()
            inside = checks.boxes(boxes, clean)
            if inside is not None:
                self._check_sharing()
                counted = checks.mask(inside if counted is None else counted & inside, clean)
            wanted = self.accept_targets(targets, clean, truth, counted)
            seeds = _seeds(generator, clean.shape[0])
            with own_precision(model, clean.device.type) as called:
                said = [] if notes is None else notes
                seen = called if inside is None else _within(called, inside, clean)
                task = Task(seen, clean, truth, counted, seeds, on_step, self.min_classes, wanted, said)
                if inside is None:
                    return self.audited(task, checks.plain("images", images))
                task.boxes = boxes
                return torch.where(inside, self.audited(task, checks.plain("images", images)), clean)

    def _check_sharing(self) -> None:
        if self.shares is not Sharing.ANY_SHAPES:
            raise ValueError(
                f"boxes: expected None for {type(self).__name__}, whose result depends on what surrounds a sample, "
                "got boxes. Attack samples of different shapes one by one"
            )

    def bind(self, model: Model) -> BoundAttack:
        """This attack with the model filled in: `attack.bind(model)(images, labels)`."""
        return BoundAttack(self, model)

    @final
    def audited(self, task: Task, images: Tensor) -> Tensor:
        """What `perturb` makes of a task, projected on the claimed ball; for attacks that run other attacks.

        Args:
            task: a validated batch.
            images: its clean images, which no attack can have written to.

        Raises:
            RuntimeError: if the result leaves the ball by more than rounding explains.
        """
        return self._audited(self.perturb(task), images)

    def accept_targets(
        self, targets: Tensor | None, images: Tensor, labels: Tensor, mask: Tensor | None
    ) -> Tensor | None:
        """A checked copy of the targets; an attack that runs another one lets that decide.

        Raises:
            TypeError, ValueError: as when called.
        """
        if targets is not None and not self.takes_targets:
            raise ValueError(
                f"targets: expected None for {type(self).__name__}, got a tensor. "
                "Noise follows no target: use a gradient attack such as PGD"
            )
        return None if targets is None else checks.targets(targets, images, labels, mask).clone()

    def _audited(self, result: Tensor, images: Tensor) -> Tensor:
        """Project the result on the claimed ball, refusing what no rounding explains."""
        name, radius = type(self).__name__, self.radius
        result = result.detach()
        if (result.shape, result.dtype, result.device) != (images.shape, images.dtype, images.device):
            raise RuntimeError(
                f"{name}.perturb: expected {tuple(images.shape)} {images.dtype} on {images.device}, "
                f"got {tuple(result.shape)} {result.dtype} on {result.device}. Fix the attack"
            )
        low, high = ball(images, 1.0 if radius is None else radius)
        excess = torch.maximum(low - result, result - high).max().item()
        if not excess <= _SLACK:  # also catches NaN
            raise RuntimeError(
                f"{name}.perturb: expected a result in [0, 1] within L-inf radius {radius}, "
                f"got one that leaves it by {excess:g}. Fix the attack: this volume must not be scored"
            )
        return images.clone() if radius == 0 else result.clamp(low, high)


@dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack that stays in an L-inf ball of radius `eps` around the clean images."""

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.budget("eps", self.eps)

    @property
    def radius(self) -> float:
        return self.eps


@dataclass(frozen=True, kw_only=True)
class LossAttack(Attack):
    """An attack whose objective is one of `losses.LOSSES`, chosen by name."""

    loss: str = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("loss", self.loss, LOSSES)

    @property
    def min_classes(self) -> int:
        return MIN_CLASSES.get(self.loss, 2)


@dataclass(frozen=True)
class BoundAttack:
    """An attack together with its model, called as `(images, labels)`."""

    attack: Attack
    model: Model

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Same as `Attack.__call__` without the model."""
        return self.attack(self.model, images, labels, mask, generator, on_step, targets)


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest values within `eps` of the images and in [0, 1].

    In floating point `x + eps` may lie further than eps from x, and eps itself may have no
    float32 representation. The bounds are pulled inwards by at most a few units in the last place, so that
    |x' - x| <= eps holds exactly, not up to a tolerance, for every x' between them.

    Args:
        images: clean intensities in [0, 1].
        eps: radius in [0, 1].

    Returns:
        Two tensors like `images`.
    """
    if eps == 0:
        return images, images
    if eps >= 1:
        return torch.zeros_like(images), torch.ones_like(images)
    reach = torch.tensor(eps, dtype=images.dtype)
    # One unit below eps: then a distance that rounds to `reach` is truly below eps.
    reach = torch.nextafter(reach, torch.zeros_like(reach)).to(images.device)
    bounds = []
    for edge in (images - reach, images + reach):
        too_far = (edge - images).abs() > reach
        bounds.append(torch.where(too_far, torch.nextafter(edge, images), edge))
    return bounds[0].clamp_min(0), bounds[1].clamp_max(1)


def limits(images: Tensor, eps: float | None) -> tuple[Any, Any]:
    """What `clamp` takes to keep images in `ball`, or in [0, 1] without a radius, where two numbers are cheaper."""
    return (0.0, 1.0) if eps is None else ball(images, eps)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Model in eval mode, parameters without gradients; every flag restored on any exit."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def own_precision(model: Model, device: str) -> Iterator[Model]:
    """Autocast off for the arithmetic of the attack; the model still runs under the caller's.

    A DCT in bfloat16 would move a volume further than the attack does.
    """
    if not torch.is_autocast_enabled(device):
        yield model
        return
    dtype = torch.get_autocast_dtype(device)

    def called(images: Tensor) -> Any:
        with torch.autocast(device, dtype=dtype):
            return model(images)

    with torch.autocast(device, enabled=False):
        yield called


def _within(model: Model, inside: Tensor, images: Tensor) -> Model:
    """The model as samples see it that do not fill their images: whatever they do outside, it sees the images there."""
    return lambda changed: model(torch.where(inside, changed, images))


def _seeds(generator: Generators | None, batch: int) -> list[int]:
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator | Sequence):
        raise TypeError(
            f"generator: expected a torch.Generator or a sequence of them, got {type(generator).__name__}. "
            "Pass torch.Generator().manual_seed(seed)"
        )
    sources = [generator] * batch if isinstance(generator, torch.Generator) else list(generator)
    if len(sources) != batch or not all(isinstance(source, torch.Generator) for source in sources):
        kinds = sorted({type(source).__name__ for source in sources})
        raise ValueError(
            f"generator: expected one torch.Generator or {batch} of them, one per sample, got "
            f"{len(sources)} of {kinds}. Pass torch.Generator().manual_seed(seed)"
        )
    return [
        int(torch.randint(2**63 - 1, (), generator=source, dtype=torch.int64, device=source.device))
        for source in sources
    ]
