"""Somebody else's network as an ordinary differentiable module on the grid and in the classes of the data.

A :class:`PromptedModel` is what was loaded; :meth:`PromptedModel.for_case` fixes for one case, from its clean
image, everything an attack must not move: grid, crop, prompts. The result is a :class:`PromptedTarget`, a module
like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..sliding_window import SlidingWindow
from .classes import ABSENT, ClassMap
from .geometry import Grid, Three, box_around, pad_centered, turn
from .prompts import PromptRecipe, Prompts, clicks_from


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a network was trained to see.

    Args:
        low: original intensity (``unit``) that the network sees as 0.
        high: original intensity that it sees as 1.
        clip: whether intensities beyond these two were cut off in training. Where they are, the gradient is zero.
        unit: ``"HU"`` for CT.
        axes: where the axes of its arrays point to.
        spacing_mm: it was trained at, per axis of ``axes``; None where nothing is resampled.
        size: of a fixed grid that every volume is resized to; None where ``spacing_mm`` decides.
        body_box: crop to the box of the body first: the largest connected set of voxels above 0 in the clean image.
        roi_size: window of the network in voxels.
        multiple: sides a window may have; a volume smaller than ``roi_size`` gets a smaller window.
        least: smallest side of a window.
    """

    low: float
    high: float
    clip: bool = True
    unit: str = "HU"
    axes: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    size: Three | None = None
    body_box: bool = False
    roi_size: Three = (96, 96, 96)
    multiple: int = 32
    least: int = 64

    def window(self, size: Sequence[int]) -> Three:
        """The window for a grid of ``size`` voxels.

        Example:
            >>> InputSpec(low=0, high=1, roi_size=(128, 128, 128), multiple=16, least=32).window((200, 50, 20))
            (128, 64, 32)
        """
        sides = (
            min(roi, max(-(-side // self.multiple) * self.multiple, self.least))
            for roi, side in zip(self.roi_size, size, strict=True)
        )
        return cast("Three", tuple(sides))


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What a target may know of a case beside the volume it is given.

    Args:
        id: of the case.
        image: the clean image, ``(1, 1, *spatial)`` in [0, 1].
        spacing_mm: per axis.
        axes: where the axes point to, like ``"RAS"``.
        window: original intensities of 0 and 1.
        unit: of the original intensities; ``"HU"`` says that this is CT.
        label: ``(*spatial)`` class ids, for prompts that come from the reference.
    """

    id: str
    image: Tensor
    spacing_mm: tuple[float, ...]
    axes: str
    window: tuple[float, float]
    unit: str
    label: np.ndarray | None = None


class Segmenter(nn.Module):
    """Base of the adapters: a network with named channels that takes windows in its own intensities.

    Attributes:
        channel_names: one per channel of the network.
        overlapping: independent sigmoids without a background channel.
        prompt_kinds: of :data:`~.prompts.KINDS`, those it can be asked by.
        whole_volume: takes volumes of any size and makes its own windows.
    """

    channel_names: tuple[str, ...]
    overlapping: bool = False
    prompt_kinds: tuple[str, ...] = ("none",)
    whole_volume: bool = False

    def windows(self, images: Tensor, channels: tuple[int, ...]) -> Tensor:
        """Logits ``(B, len(channels), *roi)`` of the named channels for windows ``(B, 1, *roi)``."""
        raise NotImplementedError(f"{type(self).__name__} takes clicks only")

    def clicked(self, image: Tensor, points: Tensor, channel: int) -> Tensor:
        """Logit ``(1, 1, *roi)`` of one object, for one window ``(1, 1, *roi)`` and its clicks ``(N, 3)``."""
        raise NotImplementedError(f"{type(self).__name__} takes no clicks")


class _Windows(nn.Module):
    """Windows in the network's intensities to logits in the data's classes."""

    def __init__(self, segmenter: Segmenter, classes: ClassMap) -> None:
        super().__init__()
        self.segmenter, self.classes, self.narrowed = segmenter, classes, classes.narrowed()

    def forward(self, images: Tensor) -> Tensor:
        return self.narrowed(self.segmenter.windows(images, self.classes.used))


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How windows are combined: the protocol's overlap and weights, and how many windows go through at once."""

    overlap: float = 0.5
    mode: str = "gaussian"
    sw_batch_size: int | str = "auto"


class PromptedTarget(nn.Module):
    """A model with everything of one case fixed: an ordinary module, differentiable end to end.

    On the way in: original intensities from [0, 1], the network's own scaling, turning, cropping and linear
    resizing. On the way out: the data's classes, resizing back. Budgets are measured on the data's own grid.

    Args:
        segmenter: the network.
        spec: what it was trained to see.
        classes: channels per class of the data.
        grid: of the case.
        window: original intensities of 0 and 1.
        prompts: of the case; only these decide what is asked, whatever image comes.
        inference: of the windows.

    Shape:
        ``(B, 1, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``, background first.

    Raises:
        ValueError: in the forward, for volumes of another shape than the case.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        spec: InputSpec,
        classes: ClassMap,
        grid: Grid,
        window: tuple[float, float],
        prompts: Prompts,
        inference: Inference,
    ) -> None:
        super().__init__()
        self.spec, self.classes, self.grid = spec, classes, grid
        self.data_window, self.prompts = window, prompts
        self.num_classes = len(classes.channels) + 1
        self.segmenter = segmenter
        self.roi_size = spec.window(grid.size)
        windows = _Windows(segmenter, classes)
        self.predictor: nn.Module = windows
        if not segmenter.whole_volume:
            self.predictor = SlidingWindow(
                windows, self.roi_size, inference.overlap, inference.sw_batch_size, inference.mode
            )

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 5 or tuple(images.shape[1:]) != (1, *self.grid.shape):
            raise ValueError(
                f"expected images (B, 1, {', '.join(map(str, self.grid.shape))}) of the case this target was made "
                f"for, got {tuple(images.shape)}; make one per case with for_case"
            )
        inputs = self.grid.to_network(self.scale(images))
        logits = self._clicked(inputs) if self.prompts.points else self.predictor(inputs)
        outside = logits.new_full((self.num_classes,), ABSENT)
        outside[0] = 0
        return self.grid.to_data(logits, outside=outside)

    def scale(self, images: Tensor) -> Tensor:
        """From [0, 1] of the data to the network's intensities."""
        low, high = self.data_window
        scaled = (images * (high - low) + (low - self.spec.low)) / (self.spec.high - self.spec.low)
        return scaled.clamp(0, 1) if self.spec.clip else scaled

    @torch.no_grad()
    def blind_share(self, images: Tensor) -> float:
        """Share of the voxels no change of which can reach the network: cut off by its window, or cropped away."""
        low, high = self.data_window
        original = images * (high - low) + low
        beyond = (original < self.spec.low) | (original > self.spec.high)
        cut = beyond if self.spec.clip else torch.zeros_like(beyond)
        seen = torch.zeros(self.grid.size, device=images.device)[None, None]
        inside = self.grid.to_data(seen + 1, outside=seen.new_zeros(1)) > 0.5
        return float((cut | ~inside).float().mean())

    def _clicked(self, inputs: Tensor) -> Tensor:
        """One window per class, around its clicks; nothing is predicted outside of it."""
        items = [self._clicked_item(inputs[b : b + 1]) for b in range(inputs.shape[0])]
        return torch.cat(items)

    def _clicked_item(self, image: Tensor) -> Tensor:
        padded, before = pad_centered(image, self.roi_size)
        crop = tuple(slice(b, b + n) for b, n in zip(before, image.shape[2:], strict=True))
        logits = [torch.zeros_like(padded)]
        for class_id in range(1, self.num_classes):
            points = self.prompts.points.get(class_id, ())
            channel = self.classes.channels[class_id - 1][0]
            logits.append(self._object(padded, before, points, channel))
        return torch.cat(logits, 1)[(..., *crop)]

    def _object(self, padded: Tensor, before: Three, points: Sequence[Sequence[int]], channel: int) -> Tensor:
        if not points:
            return torch.full_like(padded, ABSENT)
        places = np.array([self.grid.point(p) for p in points]) + np.array(before)
        box = box_around(places[0], self.roi_size, padded.shape[2:])
        starts = np.array([side.start for side in box])
        local = places - starts
        kept = local[((local >= 0) & (local <= np.array(self.roi_size) - 1)).all(1)]
        clicks = torch.as_tensor(kept, dtype=padded.dtype, device=padded.device)
        # One object's graph at a time: its activations are computed again in the backward pass.
        found = checkpoint(self.segmenter.clicked, padded[(..., *box)], clicks, channel, use_reentrant=False)
        pads = [
            n
            for side, whole in reversed(list(zip(box, padded.shape[2:], strict=True)))
            for n in (side.start, whole - side.stop)
        ]
        return F.pad(cast("Tensor", found), pads, value=ABSENT)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptedModel:
    """A loaded network with its specification; :meth:`for_case` makes the module an attack sees.

    Args:
        name: for messages.
        segmenter: the network with its weights, in eval mode.
        spec: what it was trained to see.
        classes: channels per foreground class of the data.
        recipe: how prompts are made.
        inference: of the windows.
        allow_modality_mismatch: run a CT model on data that is no CT; the data's [0, 1] is then taken for the
            network's own range.

    Raises:
        ValueError: a network that cannot be asked by the recipe's kind of prompt.
    """

    name: str
    segmenter: Segmenter
    spec: InputSpec
    classes: ClassMap
    recipe: PromptRecipe
    inference: Inference = Inference()
    allow_modality_mismatch: bool = False

    def __post_init__(self) -> None:
        kinds = self.segmenter.prompt_kinds
        if self.recipe.kind not in kinds:
            raise ValueError(
                f"expected prompts of {self.name} among {', '.join(kinds)}, got {self.recipe.kind}; say "
                f"prompts={kinds[0]}"
            )
        if self.recipe.kind.startswith("click") and any(len(group) > 1 for group in self.classes.channels):
            raise ValueError(
                f"expected one object of {self.name} per class with clicks, got a class of several; use "
                "prompts=class, or a map with one name per class"
            )

    def for_case(self, case: Case) -> PromptedTarget:
        """The module for one case; its prompts are made here, from the clean image, once.

        Raises:
            ValueError: no single-channel volume, another modality, or prompts from a reference that is not given.
        """
        self._check(case)
        window = case.window if case.unit == self.spec.unit else (self.spec.low, self.spec.high)
        kind = self.recipe.kind
        asked = Prompts(kind=kind, points={})
        target = PromptedTarget(
            self.segmenter,
            spec=self.spec,
            classes=self.classes,
            grid=self._grid(case),
            window=window,
            prompts=asked if kind in ("none", "class") else replace(asked, kind="class"),
            inference=self.inference,
        )
        if kind in ("none", "class"):
            return target
        if kind == "click_pred":
            with torch.no_grad():
                label = target(case.image).argmax(1)[0].cpu().numpy()
        elif case.label is None:
            raise ValueError(
                f"expected a reference of {case.id} to click on, got none; use prompts=click_pred"
            )
        else:
            label = case.label
        target.prompts = clicks_from(
            label,
            num_classes=target.num_classes,
            recipe=self.recipe,
            case_id=case.id,
            spacing_mm=case.spacing_mm,
        )
        return target

    def _check(self, case: Case) -> None:
        if case.image.ndim != 5 or case.image.shape[:2] != (1, 1):
            raise ValueError(
                f"expected one channel and three axes for {self.name}, got an image of shape "
                f"{tuple(case.image.shape[1:])} in {case.id}; it takes nothing else"
            )
        if case.unit != self.spec.unit and not self.allow_modality_mismatch:
            raise ValueError(
                f"expected CT ({self.spec.unit}) for {self.name}, found intensities in {case.unit} in {case.id}; say "
                "allow_modality_mismatch=true to run it all the same"
            )

    def _grid(self, case: Case) -> Grid:
        shape = cast("Three", tuple(case.image.shape[2:]))
        order, flips = turn(case.axes, self.spec.axes)
        turned = case.image[0, 0].permute(order).flip(list(flips))
        box = _body(turned) if self.spec.body_box else tuple((0, side) for side in turned.shape)
        sides = [high - low for low, high in box]
        spacing = [case.spacing_mm[i] for i in order]
        if self.spec.size is not None:
            size = self.spec.size
        elif self.spec.spacing_mm is not None:
            size = cast(
                "Three",
                tuple(
                    _resampled(side, own, wanted)
                    for side, own, wanted in zip(sides, spacing, self.spec.spacing_mm, strict=True)
                ),
            )
        else:
            size = cast("Three", tuple(sides))
        return Grid(shape=shape, order=order, flips=flips, box=box, size=size)


def _resampled(side: int, own: float, wanted: float) -> int:
    """Voxels of ``wanted`` mm along a side; the very number where the spacing is the same up to rounding."""
    if math.isclose(own, wanted, rel_tol=1e-3):
        return side
    return max(round(side * own / wanted), 1)


def _body(image: Tensor) -> tuple[tuple[int, int], ...]:
    """The box of the largest connected set of voxels above 0, the whole volume where there is none.

    The largest alone, so that the table under the patient does not count.
    """
    parts, count = cast("tuple[np.ndarray, int]", ndimage.label((image > 0).cpu().numpy()))
    if not count:
        return tuple((0, side) for side in image.shape)
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    inside = np.argwhere(parts == largest)
    return tuple((int(low), int(high) + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
