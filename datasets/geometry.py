"""Where voxels lie in the patient: spacing, orientation and units, all from the affine that is in force.

One source for every layout. A header that says two things, or whose axes are no right angles, is refused with both
values, since every number in millimetres would depend on which of them is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from .base import CaseError

CANONICAL = "RAS"
"""Axes every volume of one's own is turned to: first to the right, then to the front, then up."""

UNITS = {0: ("mm (unstated)", 1.0), 1: ("m", 1000.0), 2: ("mm", 1.0), 3: ("um", 1e-3)}
"""NIfTI's codes of length (``xyzt_units``, lowest three bits): name, and millimetres."""

SKEW_DEGREES = 0.5
"""Axes further from a right angle are refused; up to here a distance along the axes is right to 1 %."""

RIGHT_ANGLES = f"axes at right angles (to {SKEW_DEGREES:g} degrees)"
STRAIGHTEN = "resample it onto a rectangular grid; distances along skewed axes are not millimetres"

DISAGREEMENT = 0.01
"""Relative difference of pixdim and affine that is still rounding."""

SLACK_MM = 1e-3
"""Difference of two affines that is still rounding, for voxels of 1 mm and more; less in proportion for finer ones."""

SAME_GRID = "resample one onto the other"
"""What to do about two grids."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of one file.

    Args:
        affine: ``(4, 4)`` voxel to world in millimetres, whatever the unit of the file.
        source: which part of the header the affine is from: ``sform``, ``qform`` or ``pixdim`` (no orientation is
            stored).
        unit: of length in the file: ``mm``, ``um``, ``m``, or ``mm (unstated)``.
    """

    affine: np.ndarray
    source: str
    unit: str

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel sides along the array's axes."""
        return spacing_of(self.affine)

    @property
    def axes(self) -> str:
        """Axis codes of the array's axes, ``"LPS"``; the nearest ones of an oblique grid."""
        return axes_of(self.affine)


def spacing_of(affine: np.ndarray) -> tuple[float, ...]:
    """Voxel sides in the affine's unit: the lengths of its columns, to the six digits a float32 header keeps.

    Example:
        >>> spacing_of(np.diag([-0.800000012, 1.5, 2.0, 1.0]))
        (0.8, 1.5, 2.0)
    """
    return tuple(float(f"{side:.6g}") for side in np.linalg.norm(affine[:3, :3], axis=0))


def axes_of(affine: np.ndarray) -> str:
    """Axis codes of an affine, nearest for oblique ones.

    Example:
        >>> axes_of(np.diag([-1.0, -1.0, 1.0, 1.0]))
        'LPS'
    """
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def turn(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip the last three axes of an array so that they run as ``axes`` says; no voxel changes.

    Args:
        array: with spatial axes last.
        affine: voxel to world.
        axes: three axis codes, ``"RAS"``.

    Shape:
        array: ``(*, X, Y, Z)``; the result is contiguous and may share memory when nothing moves.
        affine: ``(4, 4)``.

    Returns:
        The turned array and its affine: each voxel stays where it is in the world.

    Example:
        >>> turned, affine = turn(np.arange(6).reshape(3, 2, 1), np.diag([-1.0, 1.0, 1.0, 1.0]), "RAS")
        >>> turned[:, 0, 0].tolist(), affine[0].tolist()
        ([4, 2, 0], [1.0, 0.0, 0.0, -2.0])
    """
    change = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
    leading, spatial = array.ndim - 3, array.shape[array.ndim - 3 :]
    before = np.stack([np.arange(leading), np.ones(leading)], axis=1)
    whole = np.concatenate([before, change + np.array([leading, 0])])
    turned = np.ascontiguousarray(apply_orientation(array, whole))
    return turned, np.asarray(affine, np.float64) @ inv_ornt_aff(change, spatial)


def grid_of(image: Any, path: Path, case_id: str) -> Grid:
    """The grid of a loaded file, checked.

    Raises:
        CaseError: sides that are not positive, an unknown unit, an affine that is not finite or flat, or a header
            that contradicts itself (pixdim and affine, sform and qform).
    """
    source, unit, scale, sides = _header(image, path, case_id)
    if any(not np.isfinite(side) or side <= 0 for side in sides):
        raise CaseError(
            case_id,
            "positive voxel spacing",
            f"{tuple(map(float, sides))} in {path.name}",
            "repair the header",
        )
    if image.affine is None or not np.isfinite(image.affine).all():
        raise CaseError(case_id, "a finite affine", f"{image.affine} in {path.name}", "repair the header")
    affine = np.asarray(image.affine, dtype=np.float64).copy()
    affine[:3] *= scale
    _check_axes(affine, path, case_id)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    stored = np.asarray([*sides, *lengths[len(sides) :] / scale]) * scale
    if not np.allclose(stored, lengths, rtol=DISAGREEMENT, atol=0):
        raise CaseError(
            case_id,
            "one voxel spacing in the header",
            f"{_mm(stored)} in pixdim and {_mm(lengths)} in the {source} of {path.name}",
            "write the right one to both (most programs do when they save the file again)",
        )
    return Grid(affine, source, unit)


def _header(image: Any, path: Path, case_id: str) -> tuple[str, str, float, tuple[float, ...]]:
    """Where the affine is from, the unit with its millimetres, and the sides as the file has them."""
    # A pair keeps its header in a file of its own.
    stream = (image.file_map.get("header") or image.file_map["image"]).fileobj
    stream.seek(0)
    # As stored: nibabel quietly turns a side of 0 into 1 when it loads.
    header = type(image.header).from_fileobj(stream, check=False)
    code = int(header["xyzt_units"]) & 7
    if code not in UNITS:
        raise CaseError(
            case_id,
            "a unit of length among m, mm and um",
            f"code {code} in {path.name}",
            "set xyzt_units in the header",
        )
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if qform > 0 and sform > 0:
        first, second = axes_of(image.get_sform()), axes_of(image.get_qform())
        if first != second:
            raise CaseError(
                case_id,
                "one orientation in the header",
                f"{first} in the sform and {second} in the qform of {path.name}",
                "copy the right one over the other",
            )
    source = "sform" if sform > 0 else "qform" if qform > 0 else "pixdim"
    sides = tuple(float(z) for z in header["pixdim"][1 : 1 + min(len(image.shape), 3)])
    return source, *UNITS[code], sides


def _check_axes(affine: np.ndarray, path: Path, case_id: str) -> None:
    """Three axes that span space; the test is free of scale."""
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    directions = columns / np.where(lengths > 0, lengths, 1.0)
    if (lengths == 0).any() or abs(np.linalg.det(directions)) < 1e-6:
        found = f"{columns.tolist()} in {path.name}"
        raise CaseError(case_id, "an affine that spans three dimensions", found, "repair the header")


def check_right_angles(grid: Grid, name: str, case_id: str) -> None:
    """Distances along the axes are millimetres only where the axes are at right angles.

    Raises:
        CaseError: with the angle.
    """
    found = skew_of(grid.affine)
    if found:
        raise CaseError(case_id, RIGHT_ANGLES, f"{found} of {name}", STRAIGHTEN)


def skew_of(affine: np.ndarray) -> str:
    """The first two axes that are not at right angles, and their angle; empty where all are.

    Example:
        >>> sheared = np.eye(4)
        >>> sheared[0, 1] = 1.0
        >>> skew_of(sheared), skew_of(np.eye(4))
        ('45.0 degrees between axes 0 and 1', '')
    """
    columns = affine[:3, :3]
    directions = columns / np.linalg.norm(columns, axis=0)
    for one, other in combinations(range(3), 2):
        angle = float(np.degrees(np.arccos(np.clip(directions[:, one] @ directions[:, other], -1.0, 1.0))))
        if abs(angle - 90.0) > SKEW_DEGREES:
            return f"{angle:.1f} degrees between axes {one} and {other}"
    return ""


def check_affine(
    image: np.ndarray,
    label: np.ndarray,
    case_id: str,
    *,
    what: str = "image and label",
    remedy: str = SAME_GRID,
) -> None:
    """Two files must lie on the same grid in world space, to a thousandth of a millimetre or of a finer voxel.

    Raises:
        CaseError: with the difference.
    """
    finest = min(1.0, *np.linalg.norm(image[:3, :3], axis=0))
    # The origin is stored as float32, which may be coarser than a thousandth of a very fine voxel.
    slack = SLACK_MM * finest + 4 * np.finfo(np.float32).eps * float(np.abs(image[:3, 3]).max())
    difference = np.abs(image - label)
    if difference[:3, :3].max() > SLACK_MM * finest or difference.max() > max(slack, SLACK_MM * finest):
        raise CaseError(
            case_id,
            f"one affine for {what}",
            f"a difference of {float(difference.max()):.3g} mm",
            remedy,
        )


def _mm(sides: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{float(side):.4g}" for side in sides) + " mm"
