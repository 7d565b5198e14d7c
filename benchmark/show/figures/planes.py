"""Axial, coronal and sagittal slices of a volume whatever its axes: which axis, which way round, which letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONVENTIONS = ("radiological", "neurological")
"""Who looks: a radiologist, for whom the patient's right is on the left, or the patient."""


# World axes of NIfTI: 0 grows to the patient's right, 1 to anterior, 2 to superior.
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


# name: world axis that is cut, shown across, shown downwards
_VIEWS = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}


@dataclass(frozen=True)
class Plane:
    """How one anatomical plane is cut from a voxel array and shown.

    Attributes:
        name: ``axial``, ``coronal`` or ``sagittal``.
        through, down, across: voxel axis that is cut, shown downwards and shown across.
        flip_down, flip_across: whether that axis is reversed for showing.
        left, right, top, bottom: anatomical direction at that border, one of ``L R P A I S``.
    """

    name: str
    through: int
    down: int
    across: int
    flip_down: bool
    flip_across: bool
    left: str
    right: str
    top: str
    bottom: str

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """The slice ``(down, across)`` at voxel ``index``, its first row on top.

        Shape:
            volume: ``(X, Y, Z)``.
        """
        image = np.take(volume, index, axis=self.through)
        image = image.T if self.down > self.across else image
        image = image[::-1] if self.flip_down else image
        return image[:, ::-1] if self.flip_across else image

    def size_mm(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float]:
        """Width and height of the slice in mm."""
        return shape[self.across] * spacing_mm[self.across], shape[self.down] * spacing_mm[self.down]


def planes(affine: np.ndarray, convention: str = "radiological") -> tuple[Plane, Plane, Plane]:
    """The three planes of a volume; an oblique one is shown along its own axes, named by the nearest direction.

    Anterior is on top of axial slices and on the left of sagittal ones, superior on top of the others.

    Args:
        affine: ``(4, 4)``, voxel to world in mm, world axes right, anterior, superior (NIfTI).
        convention: one of :data:`CONVENTIONS`.

    Raises:
        ValueError: for an unknown convention, or an affine that does not span three dimensions.

    Example:
        >>> axial = planes(np.diag([1.0, 1.0, 3.0, 1.0]))[0]
        >>> axial.through, axial.left, axial.top
        (2, 'R', 'A')
    """
    import nibabel as nib

    if convention not in CONVENTIONS:
        raise ValueError(f"expected convention among {', '.join(CONVENTIONS)}, got {convention!r}")
    found = nib.orientations.io_orientation(affine)
    if found.shape != (3, 2) or not np.isfinite(found).all():
        raise ValueError(
            f"affine: expected three independent axes, got {np.asarray(affine).tolist()}; "
            "slices are shown of 3D volumes only"
        )
    voxel_axis = {int(world): axis for axis, (world, _) in enumerate(found)}
    grows = {int(world): sign > 0 for world, sign in found}

    def show(world: int, first_is_high: bool) -> tuple[int, bool, str, str]:
        low, high = _LETTERS[world]
        first, last = (high, low) if first_is_high else (low, high)
        return voxel_axis[world], grows[world] == first_is_high, first, last

    made = []
    for name, (through, across, down) in _VIEWS.items():
        # The right side of the patient is on the left, unless the patient looks; anterior is on the left.
        column, flip_across, left, right = show(across, across == 1 or convention == "radiological")
        row, flip_down, top, bottom = show(down, True)
        made.append(
            Plane(name, voxel_axis[through], row, column, flip_down, flip_across, left, right, top, bottom)
        )
    return made[0], made[1], made[2]


def obliquity_degrees(affine: np.ndarray) -> float:
    """Largest angle between a voxel axis and the nearest anatomical axis, in degrees.

    Example:
        >>> obliquity_degrees(np.diag([-1.0, 1.0, 3.0, 1.0]))
        0.0
    """
    directions = np.asarray(affine, float)[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1))).max())


def most_changed_voxel(
    before: np.ndarray, after: np.ndarray, reference: np.ndarray
) -> tuple[tuple[int, ...], str]:
    """The voxel whose slices show most of a change, and in words why it was taken.

    Of all voxels that changed class, the one whose slices along all axes hold most changed voxels together. When
    nothing changed, the same of the voxels that are not background in the reference, or else the center.

    Shape:
        before, after, reference: ``(*spatial)`` class ids.

    Example:
        >>> before = np.zeros((3, 3, 3), int)
        >>> after = before.copy()
        >>> after[1, 2, 0] = 1
        >>> most_changed_voxel(before, after, before)[0]
        (1, 2, 0)
    """
    choices = (
        (before != after, "through the voxel where the segmentation changes most"),
        (reference != 0, "through the middle of the reference, as no voxel changes class"),
    )
    for mask, reason in choices:
        if mask.any():
            total = np.zeros(mask.shape, np.int64)
            for axis, side in enumerate(mask.shape):
                counts = mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis))
                total += counts.reshape([side if a == axis else 1 for a in range(mask.ndim)])
            best = np.unravel_index(np.argmax(np.where(mask, total, -1)), mask.shape)
            return tuple(int(i) for i in best), reason
    return tuple(side // 2 for side in before.shape), "through the center, as there is nothing to see"
