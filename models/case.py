"""What a model that reads files for itself is told of a case besides the image: where it lies and what was stored.

The suite gives every network one image in [0, 1] on one grid. A model of nnU-Net or of a MONAI bundle was trained on
what its own reader makes of a file: other axes, another spacing, other intensities. It gets that from here, as a
differentiable function of the image in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Turn = tuple[tuple[int, ...], tuple[bool, ...]]
"""Axes of the result by axes of the array, and which of the result's axes are then flipped."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseSource:
    """One case as its files hold it.

    Args:
        id: of the case.
        affine: ``(4, 4)`` voxel to world in millimetres, of the image.
        stored_affine: the same of the file; None where the image has the file's axes.
        image: ``(C, *spatial)`` in [0, 1], the clean image.
        original: ``(C, *spatial)`` the intensities of the file, on the grid of ``image``; None where nobody has them.
        low: intensity that is 0 in ``image``, per channel.
        high: intensity that is 1, per channel.

    Example:
        >>> source = CaseSource(
        ...     id="a", affine=np.eye(4), image=np.zeros((1, 2, 2, 2), np.float32),
        ...     original=np.full((1, 2, 2, 2), -900.0, np.float32), low=(-175.0,), high=(250.0,),
        ... )
        >>> round(float(source.intensities(torch.full((1, 1, 2, 2, 2), 8 / 255)).mean()), 2)  # air, 13 HU brighter
        -886.67
    """

    id: str
    affine: np.ndarray
    stored_affine: np.ndarray | None = None
    image: np.ndarray
    original: np.ndarray | None = None
    low: Sequence[float]
    high: Sequence[float]
    _tensors: dict[tuple[str, torch.dtype, torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Sides of a voxel of the image, from its affine."""
        return tuple(float(side) for side in np.linalg.norm(np.asarray(self.affine)[:3, :3], axis=0))

    def intensities(self, images: Tensor) -> Tensor:
        """``(B, C, *spatial)`` in [0, 1] in the unit of the file.

        What the window of the data clipped is kept: the clean image gives the file's intensities to the bit, and a
        change of ``d`` in [0, 1] is a change of ``d * (high - low)`` wherever it is made.
        """
        shape = (1, -1, *[1] * (images.ndim - 2))
        low = self._tensor("low", images).view(shape)
        span = self._tensor("high", images).view(shape) - low
        if self.original is None:
            return images * span + low
        if images.shape[1:] != self.image.shape:
            raise ValueError(
                f"expected images (B, {', '.join(map(str, self.image.shape))}) of case {self.id}, got shape "
                f"{tuple(images.shape)}; bind the predictor to the case the images are of"
            )
        original, clean = (self._tensor(name, images) for name in ("original", "image"))
        return original + (images - clean) * span

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        """A field on the device of ``like``, copied there once and not at every step of an attack."""
        key = (name, like.dtype, like.device)
        if key not in self._tensors:
            array = np.ascontiguousarray(getattr(self, name))
            self._tensors[key] = torch.as_tensor(array, dtype=like.dtype, device=like.device)
        return self._tensors[key]

    def turn_to_stored(self) -> Turn:
        """From the axes of the image to those of the file."""
        if self.stored_affine is None:
            return tuple(range(3)), (False,) * 3
        return turn_between(self.affine, self.stored_affine)

    def turn_to(self, axcodes: str) -> Turn:
        """From the axes of the image to anatomical ones such as ``"RAS"``, the way each axis grows."""
        return turn_between(self.affine, axes_of(axcodes))


def axes_of(axcodes: str) -> np.ndarray:
    """``(4, 4)`` of voxels of 1 mm whose axes grow as ``"RAS"`` and the like say.

    Raises:
        ValueError: not three letters, one of each pair.

    Example:
        >>> axes_of("LAS")[0].tolist()
        [-1.0, 0.0, 0.0, 0.0]
    """
    pairs, affine = ("LR", "PA", "IS"), np.zeros((4, 4))
    for axis, code in enumerate(axcodes.upper()):
        row = next((row for row, pair in enumerate(pairs) if code in pair), None)
        if row is None or len(axcodes) != 3 or affine[row].any():
            raise ValueError(f"expected three of L or R, P or A, I or S, got {axcodes!r}")
        affine[row, axis] = 1 if pairs[row][1] == code else -1
    affine[3, 3] = 1
    return affine


def turn_between(affine: np.ndarray, target: np.ndarray) -> Turn:
    """The permutation and flips that bring an array with one affine nearest to the axes of another one.

    Example:
        >>> turn_between(np.eye(4), np.diag([-1.0, 1.0, 1.0, 1.0]))
        ((0, 1, 2), (True, False, False))
    """
    directions = [_directions(matrix) for matrix in (affine, target)]
    # Axis k of the target points along the world axis `world`; which axis of the array does?
    axes, flips = [], []
    for axis in range(3):
        world = int(np.argmax(np.abs(directions[1][:, axis])))
        source = int(np.argmax(np.abs(directions[0][world])))
        axes.append(source)
        flips.append(bool(directions[0][world, source] * directions[1][world, axis] < 0))
    return tuple(axes), tuple(flips)


def _directions(affine: np.ndarray) -> np.ndarray:
    """Which world axis each voxel axis is nearest to, as a signed permutation ``(3, 3)``."""
    from nibabel.orientations import io_orientation

    signed = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(io_orientation(np.asarray(affine))):
        signed[int(world), axis] = sign
    return signed


def turn(images: Tensor, how: Turn) -> Tensor:
    """Permute and flip the spatial axes of ``(..., *spatial)``, three of them."""
    lead = images.ndim - 3
    axes, flips = how
    turned = images.permute(*range(lead), *(lead + axis for axis in axes))
    flipped = [lead + axis for axis, flip in enumerate(flips) if flip]
    return turned.flip(flipped) if flipped else turned


def turn_back(images: Tensor, how: Turn) -> Tensor:
    """Undo :func:`turn`."""
    lead = images.ndim - 3
    axes, flips = how
    flipped = [lead + axis for axis, flip in enumerate(flips) if flip]
    images = images.flip(flipped) if flipped else images
    return images.permute(*range(lead), *(lead + int(axis) for axis in np.argsort(axes)))


class CasePredictor(nn.Module):
    """A predictor of whole volumes that reads a case as its owner's software would.

    ``for_case`` binds it to a case; without one it takes the image as it is.
    """

    def for_case(self, source: CaseSource) -> nn.Module:
        """The predictor for images of one case, ``(B, C, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``.

        Raises:
            ValueError: a case this model cannot read.
        """
        return _ForCase(self, source)

    def sides(self, source: CaseSource) -> tuple[float, ...]:
        """Voxels of a case along the axes of the window, on the grid the network sees."""
        raise NotImplementedError

    def predict(self, images: Tensor, source: CaseSource | None) -> Tensor:
        """Logits of images that are of ``source``."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images, None)


class _ForCase(nn.Module):
    """A predictor that knows which case it is given."""

    def __init__(self, predictor: CasePredictor, source: CaseSource) -> None:
        super().__init__()
        self.predictor, self.source = predictor, source

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor.predict(images, self.source)


def per_case(predictor: nn.Module, source: Any) -> nn.Module:
    """``predictor`` bound to a case where it reads cases itself, else as it is."""
    return predictor.for_case(source) if isinstance(predictor, CasePredictor) else predictor
