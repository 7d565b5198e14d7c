"""KeyedMark: the mark that keeps unauthorised models from reading a volume, and that a key takes off again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import checks
from .base import LossAttack, Model, Sharing, ball, frozen
from .blur import blur
from .logo import stamp
from .mifgsm import accumulated_signs
from .sign_gradient import Bounds, IterativeSign, StepRule
from .task import Objective, Task

KINDS = ("field", "logo")
SUPPORTS = ("all", "outside")


@dataclass(frozen=True, kw_only=True)
class KeyedMark(LossAttack, IterativeSign):
    """Adversarial watermark of a volume: an invisible field, or a visible logo.

    `kind="field"` climbs from a random point of the L-inf ball along the sign of the averaged, smoothed gradient,
    g_{t+1} = momentum * g_t + blur(grad L) / ||blur(grad L)||_1, x_{t+1} = clamp(x_t + alpha * sign(g_{t+1}), lo,
    hi). Momentum and blur (a Gaussian of `smooth` voxels) make the field coarser and less particular to one
    network, so that it transfers and survives filters. `support="outside"` leaves every voxel alone that lies
    within `margin_mm` of a labeled one: lo = hi = x there. steps + 1 forwards, steps backwards.

    `kind="logo"` blends a letter R of a quarter of every side into the volume, x' = x + a m (c - x) with m its
    voxels, opacity a in [opacity / 2, opacity] and shade c black or white; it searches place, opacity and shade at
    random, never over the label and its margin. Visible by construction; steps + 1 forwards, no backward.

    The key enters through `generator` alone, see `keys.Key.generator`: it decides the start of the field and the
    candidates of the logo. What takes a mark off is not this class but the seal beside the marked file.

    Source: the idea of MIAD-MARK, Wei et al., "Preventing Unauthorized AI Over-Analysis by Medical Image
        Adversarial Watermarking", 2023, arXiv 2303.09858; momentum from Dong et al., CVPR 2018, arXiv 1710.06081;
        smoothed gradients from Dong et al., CVPR 2019, arXiv 1904.02884.
    Differs from the source: our own design, since its optimizer, cipher and removal networks were never
        released; volumes and segmentation in place of slices and diagnoses; the lesion-free rule is a margin
        around the label in mm; the source marks visibly, which hardly moves a segmentation network, so that the
        field is the default here; returns, per sample, the visited point with the lowest hard foreground Dice.

    Args:
        kind: "field" or "logo".
        eps: L-inf radius of the field in intensity units, in [0, 1].
        alpha: step of the field in intensity units, in [0, 1]; None means max(eps / 4, 2.5 * eps / steps), at most eps.
        steps: gradient steps of the field, or places that the logo tries after the first, >= 0.
        momentum: weight of the accumulated gradients against the new one, >= 0.
        smooth: standard deviation in voxels of the blur of the gradient, >= 0; 0 switches it off.
        support: "all" voxels, or only those "outside" the labels and their margin.
        margin_mm: Euclidean distance from the label that is kept free, in mm, >= 0.
        spacing_mm: voxel side in mm, one per spatial axis or one for all; None where the caller sets it per volume,
            as the harness does. Needed only for a margin.
        opacity: most that the logo may cover of what lies below, in [0, 1].
        loss: key of `losses.LOSSES`.

    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.
    Returns: when called, the marked images.
    Raises: ValueError: if a hyper-parameter is out of range, if a margin is asked for without a spacing, or if the
        label and its margin leave no voxel, or no place of the logo's size, to mark.

    Example:
        >>> import torch
        >>> from robustvox.attacks import KeyedMark
        >>> model = torch.nn.Conv3d(1, 2, 3, padding=1)
        >>> images, labels = torch.rand(1, 1, 8, 9, 10), torch.zeros(1, 1, 8, 9, 10, dtype=torch.int64)
        >>> labels[:, :, 3:5, 3:5, 3:5] = 1
        >>> mark = KeyedMark(steps=3, support="outside", margin_mm=1.5, spacing_mm=(1.0, 1.0, 2.0))
        >>> moved = (mark(model, images, labels) - images).abs()
        >>> bool(moved.max() <= 16 / 255), bool((moved[labels == 1] == 0).all())
        (True, True)
    """

    sharing = Sharing.EQUAL_SHAPES

    kind: str = "field"
    eps: float = 16 / 255
    momentum: float = 1.0
    smooth: float = 0.8
    support: str = "all"
    margin_mm: float = 2.0
    spacing_mm: float | tuple[float, ...] | None = None
    opacity: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("kind", self.kind, KINDS)
        checks.real("momentum", self.momentum, 0.0, hint="1.0 forgets nothing")
        checks.real("smooth", self.smooth, 0.0, hint="In voxels; 0 switches the blur off")
        checks.choice("support", self.support, SUPPORTS)
        checks.real("margin_mm", self.margin_mm, 0.0, hint="In millimetres")
        checks.real("opacity", self.opacity, 0.0, 1.0, hint="1 covers what lies below")
        if self.spacing_mm is not None:
            sides = self.spacing_mm if isinstance(self.spacing_mm, Sequence) else (self.spacing_mm,)
            for side in sides:
                checks.real(
                    "spacing_mm", side, 1e-6, hint="Voxel sides in millimetres, such as (1.0, 1.0, 2.0)"
                )
            if isinstance(self.spacing_mm, Sequence):
                object.__setattr__(self, "spacing_mm", tuple(self.spacing_mm))

    @property
    def radius(self) -> float:
        return self.eps if self.kind == "field" else self.opacity

    def at_spacing(self, spacing_mm: Sequence[float]) -> KeyedMark:
        return self if self.spacing_mm is not None else replace(self, spacing_mm=tuple(spacing_mm))

    def objective(self, task: Task) -> Objective:
        return task.objective(self.loss)

    def step_rule(self) -> StepRule:
        accumulate = accumulated_signs(self.momentum)
        return lambda gradient: accumulate(blur(gradient, self.smooth))

    def start(self, task: Task, bounds: Bounds) -> Tensor:
        return torch.add(task.images, task.noise(torch.rand) * 2 - 1, alpha=self.eps).clamp_(*bounds)

    def bounds(self, task: Task) -> Bounds:
        low, high = ball(task.images, self.eps)
        free = self.free(task)
        if free is None:
            return low, high
        return torch.where(free, low, task.images), torch.where(free, high, task.images)

    def perturb(self, task: Task) -> Tensor:
        if self.kind == "field":
            return super().perturb(task)
        labeled = task.labels > 0
        taken = self._near(labeled) if labeled.any() else labeled
        return stamp(task, taken, steps=self.steps, opacity=self.opacity, loss=self.loss)

    def free(self, task: Task) -> Tensor | None:
        """Voxels that the field may change, (B, 1, *spatial) bool; None for all."""
        if self.support == "all":
            return None
        free = ~self._near(task.labels > 0)
        if not bool(free.flatten(1).any(1).all()):
            raise ValueError(
                f"support: expected voxels outside the label and its margin of {self.margin_mm:g} mm, got none. "
                "Lower margin_mm or use support='all'"
            )
        return free

    def _near(self, labeled: Tensor) -> Tensor:
        if self.margin_mm == 0:
            return labeled
        if self.spacing_mm is None:
            raise ValueError(
                f"spacing_mm: expected the voxel sides for a margin of {self.margin_mm:g} mm, got None. "
                "Pass spacing_mm=volume.spacing_mm"
            )
        spatial = labeled.ndim - 2
        sides = self.spacing_mm if isinstance(self.spacing_mm, tuple) else (self.spacing_mm,) * spatial
        if len(sides) != spatial:
            raise ValueError(
                f"spacing_mm: expected {spatial} sides for images with {spatial} spatial axes, got {sides}. "
                "Pass one per axis"
            )
        return within(labeled, self.margin_mm, sides)


def within(labeled: Tensor, distance_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Voxels whose center lies at most `distance_mm` from that of a labeled one; exact, Euclidean.

    Squared distances are the minimum over one axis after the other, over no more neighbors than can be in reach.

    Args:
        labeled: (B, 1, *spatial) bool.
        distance_mm: >= 0.
        spacing_mm: voxel side per spatial axis, > 0.

    Returns:
        (B, 1, *spatial) bool.

    Example:
        >>> line = torch.tensor([[[[False, False, True, False, False]]]])
        >>> within(line, 2.0, (1.0, 1.5))[0, 0, 0].tolist()
        [False, True, True, True, False]
    """
    # Rounding must protect one voxel more, never one less.
    limit = (distance_mm * (1 + 1e-9)) ** 2
    squared = torch.where(labeled, 0.0, math.inf).to(torch.float64)
    for axis, side in enumerate(spacing_mm, start=2):
        length = squared.shape[axis]
        nearest = squared.clone()
        for shift in range(1, min(int(distance_mm * (1 + 1e-9) / side), length - 1) + 1):
            away = (shift * side) ** 2
            ahead, behind = (
                nearest.narrow(axis, 0, length - shift),
                nearest.narrow(axis, shift, length - shift),
            )
            torch.minimum(ahead, squared.narrow(axis, shift, length - shift) + away, out=ahead)
            torch.minimum(behind, squared.narrow(axis, 0, length - shift) + away, out=behind)
        squared = nearest
    return squared <= limit


@torch.no_grad()
def predicted_labels(model: Model, images: Tensor) -> Tensor:
    """What the model itself says, (B, 1, *spatial) int64: labels of an owner who has none."""
    with frozen(model):
        return model(images).argmax(1, keepdim=True)
