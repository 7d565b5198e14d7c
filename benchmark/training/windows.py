"""Augmented windows of training volumes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustvox.datasets import Volume

from .recipe import Recipe

UNLABELLED = -1
"""Label of voxels that enter no loss."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A volume to train on, and what shall be said of it.

    Shape:
        image: ``(C, *spatial)`` float32 in [0, 1].
        target: ``(1, *spatial)`` int64 class ids, :data:`UNLABELLED` where the case says that nobody labelled the
            voxel, or ``(K, *spatial)`` float32 probabilities.

    Attributes:
        case: its id, which the seeds of inner attacks are made from.
    """

    image: Tensor
    target: Tensor
    case: str = ""

    @classmethod
    def of(cls, volume: Volume) -> Sample:
        """The volume with its true labels."""
        classes = volume.label.astype(np.int64)
        if volume.ignore is not None:
            classes[volume.ignore] = UNLABELLED
        return cls(torch.from_numpy(volume.image), torch.from_numpy(classes)[None], volume.id)

    @property
    def soft(self) -> bool:
        """Whether the target is probabilities."""
        return self.target.is_floating_point()

    @property
    def classes(self) -> Tensor:
        """The target as class ids, ``(*spatial)`` int64."""
        return self.target.argmax(0) if self.soft else self.target[0]


@dataclass(frozen=True)
class Draw:
    """Which sample a window was cut from, in which pass over all of them, counted from 0."""

    case: str
    epoch: int


@dataclass(frozen=True, eq=False)
class Windows:
    """A batch of augmented windows.

    Shape:
        images: ``(B, C, *roi)`` float32 in [0, 1]; targets: ``(B, 1 or K, *roi)`` as in the samples.
    """

    images: Tensor
    targets: Tensor
    draws: tuple[Draw, ...]


class WindowStream(Iterator[Windows]):
    """Batches of windows without end; where it stands can be kept and taken up again.

    Every sample is drawn once in each pass, in an order that each pass draws anew.
    """

    def __init__(self, samples: Sequence[Sample], roi_size: Sequence[int], recipe: Recipe, seed: int) -> None:
        self._samples, self._roi_size, self._recipe = samples, tuple(roi_size), recipe
        self._rng = np.random.default_rng(seed)
        self._order: list[int] = []
        self._passes = 0

    def __next__(self) -> Windows:
        images, targets, draws = [], [], []
        for _ in range(self._recipe.batch_size):
            if not self._order:
                self._order = [int(i) for i in self._rng.permutation(len(self._samples))]
                self._passes += 1
            sample = self._samples[self._order.pop()]
            image, target = _window(sample, self._roi_size, self._recipe, self._rng)
            images.append(image)
            targets.append(target)
            draws.append(Draw(sample.case, self._passes - 1))
        return Windows(torch.stack(images), torch.stack(targets), tuple(draws))

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain values."""
        return {"rng": self._rng.bit_generator.state, "order": list(self._order), "passes": self._passes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state` was called."""
        self._rng.bit_generator.state = state["rng"]
        self._order, self._passes = list(state["order"]), int(state["passes"])


def channels_last(rank: int) -> torch.memory_format:
    """Convolutions are a quarter faster in this layout, on CPU and GPU."""
    return {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank, torch.contiguous_format)


def _window(
    sample: Sample, roi_size: Sequence[int], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One randomly rotated, scaled and recolored window, sampled around a voxel of the volume."""
    shape = np.array(sample.image.shape[1:], dtype=float)
    roi = np.array(roi_size, dtype=float)
    if rng.random() < recipe.foreground:
        voxels = torch.nonzero(sample.classes > 0).numpy()
        center = voxels[rng.integers(len(voxels))].astype(float) if len(voxels) else shape / 2
    else:
        center = rng.random(len(shape)) * shape
    # A window inside the volume where it fits, the volume inside the window (moving a little) where not.
    slack = np.abs(shape - roi) / 2
    center = np.clip(center, shape / 2 - slack, shape / 2 + slack)
    matrix = _random_rotation(len(shape), recipe.rotate, rng) * (1 + rng.uniform(-recipe.scale, recipe.scale))
    if recipe.turn:
        matrix = matrix @ _plane_rotation(len(shape), 0, 1, recipe.turn, rng)
    theta = torch.from_numpy(_normalized_affine(matrix, center, shape, roi)).float()[None]
    grid = F.affine_grid(theta, [1, 1, *roi_size], align_corners=False)
    image = F.grid_sample(sample.image[None], grid, mode="bilinear", align_corners=False)[0]
    mode = "bilinear" if sample.soft else "nearest"
    target = F.grid_sample(sample.target.float()[None], grid, mode=mode, align_corners=False)[0]
    if sample.soft:
        # Beyond the volume there is background.
        target[0] += 1 - target.sum(0)
    if recipe.gamma != 1:
        image = image.clamp_(0, 1) ** recipe.gamma ** rng.uniform(-1, 1)
    gain = 1 + rng.uniform(-recipe.intensity, recipe.intensity)
    offset = rng.uniform(-recipe.intensity, recipe.intensity) / 2
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * rng.uniform(
        0, recipe.noise
    )
    image = (image * gain + offset + noise).clamp_(0, 1)
    return image, target if sample.soft else target.long()


def _random_rotation(rank: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    matrix = np.eye(rank)
    for a in range(rank):
        for b in range(a + 1, rank):
            matrix = matrix @ _plane_rotation(rank, a, b, degrees, rng)
    return matrix


def _plane_rotation(rank: int, a: int, b: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    angle = math.radians(rng.uniform(-degrees, degrees))
    plane = np.eye(rank)
    plane[a, a] = plane[b, b] = math.cos(angle)
    plane[a, b], plane[b, a] = -math.sin(angle), math.sin(angle)
    return plane


def _normalized_affine(
    matrix: np.ndarray, center: np.ndarray, shape: np.ndarray, roi: np.ndarray
) -> np.ndarray:
    """Voxel-space rotation about ``center`` in the normalized, axis-reversed coordinates of ``affine_grid``."""
    linear = matrix * roi[None, :] / shape[:, None]
    translation = 2 * center / shape - 1
    return np.concatenate([linear[::-1, ::-1], translation[::-1, None]], axis=1)
