"""Augmented windows of training volumes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustvox.datasets import Volume

from .recipe import Recipe

UNLABELLED = -1
"""Label of voxels that enter no loss."""


def sample_windows(
    volumes: Sequence[Volume], roi_size: Sequence[int], recipe: Recipe, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of augmented windows: images ``(B, C, *roi)`` float32, labels ``(B, 1, *roi)`` int64.

    A label is :data:`UNLABELLED` where the case says that nobody labelled the voxel.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(recipe.steps):
        images, labels = [], []
        for _ in range(recipe.batch_size):
            if not order:
                order = list(rng.permutation(len(volumes)))
            image, label = _window(volumes[order.pop()], roi_size, recipe, rng)
            images.append(image)
            labels.append(label)
        yield torch.stack(images), torch.stack(labels)


def _window(
    volume: Volume, roi_size: Sequence[int], recipe: Recipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One randomly rotated, scaled and recolored window, sampled around a voxel of the volume."""
    shape = np.array(volume.label.shape, dtype=float)
    roi = np.array(roi_size, dtype=float)
    if rng.random() < recipe.foreground:
        voxels = np.argwhere(volume.label > 0)
        center = voxels[rng.integers(len(voxels))].astype(float) if len(voxels) else shape / 2
    else:
        center = rng.random(len(shape)) * shape
    # A window inside the volume where it fits, the volume inside the window (moving a little) where not.
    slack = np.abs(shape - roi) / 2
    center = np.clip(center, shape / 2 - slack, shape / 2 + slack)
    matrix = _random_rotation(len(shape), recipe.rotate, rng) * (1 + rng.uniform(-recipe.scale, recipe.scale))
    theta = torch.from_numpy(_normalized_affine(matrix, center, shape, roi)).float()[None]
    grid = F.affine_grid(theta, [1, 1, *roi_size], align_corners=False)
    image = F.grid_sample(torch.from_numpy(volume.image)[None], grid, mode="bilinear", align_corners=False)[0]
    classes = volume.label.astype(np.float32)
    if volume.ignore is not None:
        classes[volume.ignore] = UNLABELLED
    label = torch.from_numpy(classes)[None, None]
    label = F.grid_sample(label, grid, mode="nearest", align_corners=False)[0].long()
    gain = 1 + rng.uniform(-recipe.intensity, recipe.intensity)
    offset = rng.uniform(-recipe.intensity, recipe.intensity) / 2
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * rng.uniform(
        0, recipe.noise
    )
    return (image * gain + offset + noise).clamp_(0, 1), label


def _random_rotation(rank: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    matrix = np.eye(rank)
    for a in range(rank):
        for b in range(a + 1, rank):
            angle = math.radians(rng.uniform(-degrees, degrees))
            plane = np.eye(rank)
            plane[a, a] = plane[b, b] = math.cos(angle)
            plane[a, b], plane[b, a] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ plane
    return matrix


def _normalized_affine(
    matrix: np.ndarray, center: np.ndarray, shape: np.ndarray, roi: np.ndarray
) -> np.ndarray:
    """Voxel-space rotation about ``center`` in the normalized, axis-reversed coordinates of ``affine_grid``."""
    linear = matrix * roi[None, :] / shape[:, None]
    translation = 2 * center / shape - 1
    return np.concatenate([linear[::-1, ::-1], translation[::-1, None]], axis=1)
