"""Volumes onto another grid as a linear map per axis, so that what an attack sees is what the network sees.

Splines, linear and nearest interpolation of scipy, skimage, torch and MONAI all work axis by axis. Here each axis is a
matrix, made once by asking the library itself what it does to unit vectors; its transpose is the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import map_coordinates, zoom
from torch import Tensor

ANISOTROPY = 3.0
"""nnU-Net's `ANISO_THRESHOLD`: above this ratio of voxel sides slices are resampled one by one."""


@lru_cache(maxsize=64)
def zoom_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """``(new_size, size)`` of ``skimage.transform.resize(order=order, mode="edge", anti_aliasing=False)``."""
    columns = [
        np.asarray(zoom(row, new_size / size, order=order, mode="nearest", grid_mode=True, output=np.float64))
        for row in np.eye(size)
    ]
    return np.stack(columns, axis=1)


@lru_cache(maxsize=64)
def sampled_matrix(size: int, positions: tuple[float, ...], order: int) -> np.ndarray:
    """``(len(positions), size)`` of spline interpolation at ``positions`` in voxels, the edge voxel beyond the edge."""
    where = np.asarray([positions])
    columns = [
        np.asarray(map_coordinates(row, where, order=order, mode="nearest", output=np.float64))
        for row in np.eye(size)
    ]
    return np.stack(columns, axis=1)


def along(images: Tensor, matrix: np.ndarray, axis: int) -> Tensor:
    """Apply ``(new, old)`` to one axis of a tensor, in its precision."""
    weights = torch.as_tensor(matrix, dtype=images.dtype, device=images.device)
    return (images.movedim(axis, -1) @ weights.T).movedim(-1, axis)


@dataclass(frozen=True, kw_only=True)
class NnUNetResampling:
    """How nnU-Net v2 brings arrays to another shape, by the name and arguments of its plan.

    Args:
        name: ``resample_data_or_seg_to_shape`` (splines by skimage), ``resample_torch_fornnunet`` (linear by torch) or
            ``no_resampling_hack``.
        order: of the splines in the plane, or everywhere.
        order_z: across slices, where these are resampled apart.
        force_separate_z: whether slices are resampled apart; None for where the grid is anisotropic.
        threshold: ratio of voxel sides above which it is.
    """

    name: str = "resample_data_or_seg_to_shape"
    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = None
    threshold: float = ANISOTROPY

    @classmethod
    def of(cls, name: object, given: Mapping[str, object]) -> NnUNetResampling:
        """From a plan.

        Raises:
            ValueError: a function or an argument that is not known.
        """
        known = ("resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack")
        if name not in known:
            raise ValueError(f"a resampling among {', '.join(known)}, found {name}")
        fields = {"order": int, "order_z": int, "separate_z_anisotropy_threshold": float}
        neutral = ("is_seg", "num_threads", "device", "memefficient_seg_resampling", "force_separate_z")
        fixed = {"mode": "linear", "aniso_axis_mode": "nearest-exact"}
        wrong = [
            key
            for key, value in given.items()
            if key not in fields and key not in neutral and fixed.get(key) != value
        ]
        if wrong:
            raise ValueError(f"arguments of {name} that are known, found {wrong[0]}={given[wrong[0]]}")
        values = {key: kind(given[key]) for key, kind in fields.items() if key in given}  # type: ignore[call-overload]
        threshold = values.pop("separate_z_anisotropy_threshold", ANISOTROPY)
        forced = given.get("force_separate_z")
        return cls(
            name=str(name),
            force_separate_z=None if forced is None else bool(forced),
            threshold=float(threshold),
            order=int(values.get("order", 3)),
            order_z=int(values.get("order_z", 0)),
        )

    def __call__(
        self, images: Tensor, shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
    ) -> Tensor:
        """``(C, *spatial)`` on another grid of the same field of view.

        Args:
            images: floating point.
            shape: of the result.
            spacing: of ``images``.
            new_spacing: of the result; both decide which axis is across slices.
        """
        if self.name == "no_resampling_hack" or tuple(images.shape[1:]) == tuple(shape):
            return images
        across = self._across(spacing, new_spacing)
        if self.name == "resample_torch_fornnunet":
            return _by_torch(images, shape, across)
        lead = tuple(range(1, images.ndim))
        plane = tuple(axis for axis in lead if axis - 1 != across)
        low, high = images.amin(plane, keepdim=True), images.amax(plane, keepdim=True)
        for axis in plane:
            if images.shape[axis] != shape[axis - 1]:
                images = along(images, zoom_matrix(images.shape[axis], shape[axis - 1], self.order), axis)
        # skimage keeps what a spline overshoots within the range of its input.
        # Not clamped: at a tie, which all of a flat background is, the gradient belongs to the voxel itself.
        images = torch.where(images < low, low, torch.where(images > high, high, images))
        if across is not None and images.shape[across + 1] != shape[across]:
            old, new = images.shape[across + 1], shape[across]
            positions = tuple(float(p) for p in old / new * (np.arange(new) + 0.5) - 0.5)
            images = along(images, sampled_matrix(old, positions, self.order_z), across + 1)
        return images

    def _across(self, spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
        """The axis across slices, where those are resampled apart."""
        if self.force_separate_z is False:
            return None
        for sides in (spacing,) if self.force_separate_z else (spacing, new_spacing):
            if self.force_separate_z or max(sides) / min(sides) > self.threshold:
                longest = [axis for axis, side in enumerate(sides) if max(sides) / side == 1]
                return longest[0] if len(longest) == 1 else None
        return None


def _by_torch(images: Tensor, shape: Sequence[int], across: int | None) -> Tensor:
    for axis, (old, new) in enumerate(zip(images.shape[1:], shape, strict=True)):
        if old != new:
            images = along(images, torch_matrix(old, new, nearest=axis == across), axis + 1)
    return images


@lru_cache(maxsize=64)
def torch_matrix(size: int, new_size: int, *, nearest: bool) -> np.ndarray:
    """``(new_size, size)`` of ``torch.nn.functional.interpolate``, linear or ``nearest-exact``."""
    identity = torch.eye(size, dtype=torch.float64)[None]
    how = {"mode": "nearest-exact"} if nearest else {"mode": "linear", "align_corners": False}
    return torch.nn.functional.interpolate(identity, new_size, **how)[0].numpy().T  # type: ignore[arg-type]


def spacing_matrix(size: int, spacing: float, new_spacing: float, order: int) -> np.ndarray:
    """``(new, size)`` of MONAI's ``Spacing``: the first voxels of both grids coincide, the edge goes on beyond it.

    MONAI lets the new grid cover the centers of the old one, rounded to whole voxels.

    Example:
        >>> spacing_matrix(5, 1.0, 2.0, 1).tolist()
        [[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    new_size = int(np.round((size - 1) * spacing / new_spacing)) + 1
    return sampled_matrix(size, tuple(float(p) for p in np.arange(new_size) * new_spacing / spacing), order)


def spacing_matrix_back(size: int, new_size: int, spacing: float, new_spacing: float) -> np.ndarray:
    """``(size, new_size)``: linear interpolation from the grid of :func:`spacing_matrix` at the old grid's centers."""
    return sampled_matrix(new_size, tuple(float(p) for p in np.arange(size) * spacing / new_spacing), 1)
