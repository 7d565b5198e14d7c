"""From the voxels of the data to the voxels a network was made for, and back: exact turns, crops and linear resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor

Three = tuple[int, int, int]

_OPPOSITE = dict(zip("RASLPI", "LPIRAS", strict=True))


def turn(axes: str, wanted: str) -> tuple[Three, tuple[int, ...]]:
    """Permutation and flips that bring axes like ``"RAS"`` to others like ``"LAI"``.

    Args:
        axes: where each axis of the data points to, one letter of R/L, A/P, S/I each.
        wanted: the same for the network.

    Returns:
        ``order`` for ``permute`` and, in the new order, the axes to flip afterwards.

    Raises:
        ValueError: letters that are not three axes.

    Example:
        >>> turn("RAS", "LAI"), turn("ASR", "RAS")
        (((0, 1, 2), (0, 2)), ((2, 0, 1), ()))
    """
    order: list[int] = []
    flips: list[int] = []
    for new, letter in enumerate(wanted):
        found = [i for i, own in enumerate(axes) if own in (letter, _OPPOSITE.get(letter))]
        if len(axes) != 3 or len(wanted) != 3 or len(found) != 1 or found[0] in order:
            raise ValueError(f"expected three axes among R/L, A/P, S/I, got {axes!r} and {wanted!r}")
        order.append(found[0])
        if axes[found[0]] != letter:
            flips.append(new)
    return cast("Three", tuple(order)), tuple(flips)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The way from a volume of the data to the network's grid and back, fixed for one case.

    Images are turned (permuted and flipped), cropped to a box and resized linearly to ``size``; logits go back
    the same way, and lie outside of the box at what the caller says. Resizing keeps the extent of the box and not
    its outer voxel centres (``align_corners=False``), so a spacing is met up to half a voxel over the whole side.

    Args:
        shape: of the data.
        order: axes of the data in the network's order.
        flips: axes to flip after that.
        box: first and one past the last voxel of the box per axis, in the network's order.
        size: of the network's grid.

    Example:
        >>> import torch
        >>> grid = Grid(shape=(4, 6, 8), order=(2, 0, 1), flips=(0,), box=((0, 8), (1, 4), (0, 6)), size=(8, 3, 6))
        >>> image = torch.rand(1, 1, 4, 6, 8)
        >>> back = grid.to_data(grid.to_network(image), outside=image.new_zeros(1))
        >>> torch.equal(back[:, :, 1:], image[:, :, 1:]), grid.to_network(image).shape
        (True, torch.Size([1, 1, 8, 3, 6]))
    """

    shape: Three
    order: Three
    flips: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    size: Three

    def __post_init__(self) -> None:
        turned = [self.shape[i] for i in self.order]
        if any(not 0 <= low < high <= side for (low, high), side in zip(self.box, turned, strict=True)):
            raise ValueError(f"expected a box inside {tuple(turned)}, got {self.box}")

    def to_network(self, images: Tensor) -> Tensor:
        """``(B, C, *shape)`` to ``(B, C, *size)``."""
        images = images.permute(0, 1, *(2 + i for i in self.order)).flip([2 + i for i in self.flips])
        images = images[(..., *(slice(low, high) for low, high in self.box))]
        return resize(images, self.size)

    def to_data(self, logits: Tensor, *, outside: Tensor) -> Tensor:
        """``(B, K, *size)`` to ``(B, K, *shape)``; ``outside`` has the K logits of voxels outside the box."""
        logits = resize(logits, [high - low for low, high in self.box])
        turned = [self.shape[i] for i in self.order]
        if list(logits.shape[2:]) != turned:
            pads = [
                n
                for (low, high), side in reversed(list(zip(self.box, turned, strict=True)))
                for n in (low, side - high)
            ]
            inside = F.pad(logits.new_ones((1, 1, *logits.shape[2:])), pads)
            shape = (1, -1, *([1] * len(self.shape)))
            logits = F.pad(logits, pads) + (1 - inside) * outside.view(shape)
        back = [2 + self.order.index(i) for i in range(len(self.order))]
        return logits.flip([2 + i for i in self.flips]).permute(0, 1, *back)

    def point(self, voxel: Sequence[float]) -> tuple[float, ...]:
        """Where a voxel of the data lies on the network's grid, in voxels.

        Example:
            >>> grid = Grid(shape=(4, 4, 4), order=(0, 1, 2), flips=(0,), box=((0, 4), (0, 4), (2, 4)), size=(4, 8, 2))
            >>> grid.point((0, 1, 2))
            (3.0, 2.5, 0.0)
        """
        found = []
        for new, old in enumerate(self.order):
            x = float(voxel[old])
            x = self.shape[old] - 1 - x if new in self.flips else x
            low, high = self.box[new]
            found.append((x - low + 0.5) * self.size[new] / (high - low) - 0.5)
        return tuple(found)


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear to another size; the very same tensor where nothing changes."""
    if list(images.shape[2:]) == list(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="trilinear", align_corners=False)


def pad_centered(images: Tensor, least: Sequence[int]) -> tuple[Tensor, Three]:
    """Zeros around volumes that are smaller than ``least``, and how many came before each axis.

    Example:
        >>> import torch
        >>> padded, before = pad_centered(torch.ones(1, 1, 3, 8, 4), (6, 8, 8))
        >>> padded.shape, before
        (torch.Size([1, 1, 6, 8, 8]), (1, 0, 2))
    """
    missing = [max(need - side, 0) for need, side in zip(least, images.shape[2:], strict=True)]
    before = cast("Three", tuple(m // 2 for m in missing))
    if not any(missing):
        return images, before
    pads = [n for b, m in reversed(list(zip(before, missing, strict=True))) for n in (b, m - b)]
    return F.pad(images, pads), before


def box_around(center: Sequence[float], roi: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """A window of ``roi`` inside ``shape`` with ``center`` as near to its middle as the border allows.

    Example:
        >>> box_around((1.0, 10.0), (4, 4), (16, 16))
        (slice(0, 4, None), slice(8, 12, None))
    """
    starts = (
        min(max(round(c - (r - 1) / 2), 0), max(n - r, 0)) for c, r, n in zip(center, roi, shape, strict=True)
    )
    return tuple(slice(s, s + r) for s, r in zip(starts, roi, strict=True))
