"""Prompts that are fixed per case before an attack begins: classes, and clicks from a label volume."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

KINDS = ("none", "class", "click", "click_pred")

DEEP = 0.5
"""Further clicks fall where the distance to the border is at least this share of the greatest one."""

Voxel = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class PromptRecipe:
    """How prompts are made of a case, the part of a target's identity that is no weight.

    Args:
        kind: ``"none"`` for networks without prompts, ``"class"`` for class ids alone, ``"click"`` for clicks from
            the reference (which carry part of the answer), ``"click_pred"`` for clicks from the model's own
            prediction on the clean image.
        clicks: points per class.
        seed: of the clicks; with seed 0 the first click is the deepest voxel, otherwise all are drawn.

    Raises:
        ValueError: an unknown kind, or no click.
    """

    kind: str = "class"
    clicks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected prompts among {', '.join(KINDS)}, got {self.kind!r}")
        if not 1 <= self.clicks <= 32:
            raise ValueError(f"expected 1 to 32 clicks, got {self.clicks}")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of one case.

    Args:
        kind: of the recipe.
        points: voxels of the data per class id; a class that has none is not asked for.
    """

    kind: str
    points: Mapping[int, tuple[Voxel, ...]]

    def text(self) -> str:
        """One short line for records, with every coordinate.

        Example:
            >>> Prompts(kind="click", points={1: ((3, 4, 5),), 2: ()}).text()
            'click 1@3,4,5'
        """
        clicks = [f"{k}@{','.join(map(str, p))}" for k, points in sorted(self.points.items()) for p in points]
        return " ".join([self.kind, *clicks])


def clicks_from(
    label: np.ndarray, *, num_classes: int, recipe: PromptRecipe, case_id: str, spacing_mm: tuple[float, ...]
) -> Prompts:
    """Positive clicks inside the largest component of every class of a label volume.

    The deepest voxel, where the Euclidean distance to the border in mm is greatest, is the first click of seed 0;
    all others are drawn with a generator of (seed, case, class) among the voxels at least half as deep.

    Args:
        label: ``(*spatial)`` class ids.
        num_classes: K, background included.
        recipe: number of clicks and their seed.
        case_id: mixed into the seed, so that cases are independent.
        spacing_mm: of the voxels.

    Example:
        >>> label = np.zeros((9, 9, 9), int); label[2:7, 3:6, 1:8] = 1
        >>> recipe = PromptRecipe(kind="click")
        >>> clicks_from(label, num_classes=3, recipe=recipe, case_id="a", spacing_mm=(1.0, 1.0, 1.0)).text()
        'click 1@3,4,2'
    """
    points = {
        k: _clicks(label == k, recipe, _generator(recipe.seed, case_id, k), spacing_mm)
        for k in range(1, num_classes)
    }
    return Prompts(kind=recipe.kind, points=points)


def _clicks(
    mask: np.ndarray, recipe: PromptRecipe, rng: np.random.Generator, spacing_mm: tuple[float, ...]
) -> tuple[Voxel, ...]:
    if not mask.any():
        return ()
    components, count = cast("tuple[np.ndarray, int]", ndimage.label(mask))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    largest = components == 1 + int(sizes.argmax())
    # The border of the volume is a border of the organ too: an organ that is cut off has no depth beyond it.
    depth = ndimage.distance_transform_edt(np.pad(largest, 1), sampling=spacing_mm)
    depth = np.asarray(depth)[tuple(slice(1, -1) for _ in range(mask.ndim))]
    deep = np.argwhere(depth >= DEEP * depth.max())
    first = [np.unravel_index(int(depth.argmax()), depth.shape)] if recipe.seed == 0 else []
    drawn = deep[rng.integers(len(deep), size=recipe.clicks - len(first))]
    return tuple((int(p[0]), int(p[1]), int(p[2])) for p in (*first, *drawn))


def _generator(seed: int, case_id: str, class_id: int) -> np.random.Generator:
    digest = hashlib.sha256(f"clicks\0{seed}\0{case_id}\0{class_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
