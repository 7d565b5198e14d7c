"""The two abdominal CT networks of the OBELISK paper that were published with weights (8 organs, 144^3).

Source: Heinrich, Oktay and Bouteldja, OBELISK-Net, Medical Image Analysis 54 (2019),
doi:10.1016/j.media.2019.02.006; weights and description at github.com/mattiaspaul/OBELISK (MIT). The layers are
written anew from the paper, the public description and the shapes of the published weights; the names of the
weights are the published ones, so that the files load strictly.

What the files do not say and the public description does: the slope of the leaky ReLU (0.025 and 0.1), the
smoothing before the sparse layers, and that the coarse sparse layer has twice as many points along its second
axis. Weights are of PyTorch 0.4.1, where sampling put -1 and 1 on the centres of the outer voxels
(``align_corners=True``) while resizing did not.

Differs from the source: the public inference script leaves the dropout of the all-convolutional network switched
on, so that its answer is another one at every call; here dropout is for training only, as everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASS_NAMES = (
    "background",
    "spleen",
    "pancreas",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "duodenum",
)
"""Of the published weights, in the order of their logits."""

ROI = (144, 144, 144)
"""Grid of the published preparation; the sparse layers measure their offsets in halves of it."""


class _Blocks(nn.Module):
    """Convolution, batch norm and leaky ReLU under the published names ``conv<key>`` and ``batch<key>``."""

    slope: float

    def _add(self, key: str, inputs: int, outputs: int, stride: int = 1) -> None:
        self.add_module(f"conv{key}", nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1))
        self.add_module(f"batch{key}", nn.BatchNorm3d(outputs))

    def _block(self, key: str, x: Tensor) -> Tensor:
        x = self.get_submodule(f"batch{key}")(self.get_submodule(f"conv{key}")(x))
        return F.leaky_relu(x, self.slope)


class ObeliskHybrid(_Blocks):
    """Small U-Net beside two OBELISK layers: sparse convolutions whose sampling points were learned.

    An OBELISK layer reads the smoothed image at learned offsets around every point of a coarse grid, and a
    densely connected chain of 1x1x1 convolutions makes features of what it read. Offsets are in halves of the
    volume, so the network is tied to the field of view it was trained on, not only to its spacing.

    Args:
        num_classes: logit channels K, background included.
        sparse: sampling points of the fine and the coarse OBELISK layer.

    Shape:
        ``(B, 1, *spatial)`` CT in HU/1024 + 1 to logits ``(B, K, *spatial)``; sides are multiples of 8.

    Example:
        >>> network = ObeliskHybrid().eval()
        >>> sum(p.numel() for p in network.parameters()), sum(b.numel() for b in network.buffers())
        (229217, 3203)
        >>> network(torch.zeros(1, 1, 16, 24, 16)).shape
        torch.Size([1, 9, 16, 24, 16])
    """

    slope = 0.025

    def __init__(self, num_classes: int = 9, sparse: tuple[int, int] = (128, 512)) -> None:
        super().__init__()
        for key, inputs, outputs, stride in (
            ("0", 1, 4, 1), ("1", 4, 16, 2), ("11", 16, 16, 1), ("2", 16, 32, 2), ("22", 32, 32, 1), ("3", 32, 32, 1),
        ):  # fmt: skip
            self._add(key, inputs, outputs, stride)
        for layer, (points, groups, features) in enumerate(((sparse[0], 2, 16), (sparse[1], 4, 32)), start=1):
            self._add_sparse(layer, points, groups, features)
        self._add("6bU", 64, 32)
        self._add("6U", 64, 12)
        self._add("7U", 16, num_classes)
        self.conv77U = nn.Conv3d(num_classes, num_classes, 1)

    def _add_sparse(self, layer: int, points: int, groups: int, features: int) -> None:
        self.register_parameter(f"offset{layer}", nn.Parameter(torch.randn(1, points, 1, 1, 3) * 0.05))
        self.add_module(f"linear{layer}a", nn.Conv3d(points, 128, 1, groups=groups, bias=False))
        for i, (step, following) in enumerate(zip("abcd", "bcde", strict=True)):
            width = 128 + 32 * i
            outputs = features if following == "e" else 32
            self.add_module(f"batch{layer}{step}", nn.BatchNorm3d(width))
            self.add_module(f"linear{layer}{following}", nn.Conv3d(width, outputs, 1, bias=False))

    def _sparse(self, layer: int, image: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Features ``(B, F, *grid)`` of what one layer reads in ``image``."""
        part = self.get_submodule
        points = _points(grid, image) + self.get_parameter(f"offset{layer}")
        # Channels are the sampling points, positions the grid: (B, points, voxels, 1, xyz).
        points = points.expand(image.shape[0], -1, -1, -1, -1)
        read = F.grid_sample(image, points, mode="bilinear", padding_mode="zeros", align_corners=True)
        x = F.leaky_relu(part(f"linear{layer}a")(read.view(image.shape[0], -1, *grid)), self.slope)
        for step, following in zip("abc", "bcd", strict=True):
            new = part(f"linear{layer}{following}")(part(f"batch{layer}{step}")(x))
            x = torch.cat((x, F.leaky_relu(new, self.slope)), 1)
        return F.leaky_relu(part(f"linear{layer}e")(part(f"batch{layer}d")(x)), self.slope)

    def forward(self, images: Tensor) -> Tensor:
        full = tuple(images.shape[2:])
        _check_sides("obelisk_hybrid", full, 8)
        half, quarter, eighth = (tuple(side // d for side in full) for d in (2, 4, 8))
        smooth = F.avg_pool3d(images, 3, stride=1, padding=1)
        smoother = F.avg_pool3d(smooth, 3, stride=1, padding=1)

        at_full = self._block("0", images)
        at_half = self._block("11", self._block("1", at_full))
        x = self._block("3", self._block("22", self._block("2", at_half)))
        fine = _resize(self._sparse(1, smooth, _three(quarter)), half)
        # The second axis of the coarse grid is twice as dense in the published network.
        coarse = _resize(self._sparse(2, smoother, (eighth[0], quarter[1], eighth[2])), quarter)

        x = _resize(self._block("6bU", torch.cat((x, coarse), 1)), half)
        x = _resize(self._block("6U", torch.cat((x, fine, at_half), 1)), full)
        return self.conv77U(self._block("7U", torch.cat((x, at_full), 1)))


class ObeliskUNet(_Blocks):
    """The all-convolutional U-Net that the paper compares with: five strides of 2, resized skips.

    Args:
        num_classes: logit channels K, background included.

    Shape:
        ``(B, 1, *spatial)`` CT in HU to logits ``(B, K, *spatial)``; sides of at least 32.

    Example:
        >>> network = ObeliskUNet().eval()
        >>> network(torch.zeros(1, 1, 36, 32, 40)).shape
        torch.Size([1, 9, 36, 32, 40])
    """

    slope = 0.1
    WIDTHS = (5, 14, 28, 42, 56, 70)
    DECODER = ("6dU", "6cU", "6bU", "6U", "7U")

    def __init__(self, num_classes: int = 9) -> None:
        super().__init__()
        self._add("0", 1, self.WIDTHS[0])
        for level in range(1, len(self.WIDTHS)):
            self._add(f"{level}", self.WIDTHS[level - 1], self.WIDTHS[level], stride=2)
            self._add(f"{level}{level}", self.WIDTHS[level], self.WIDTHS[level])
        below = self.WIDTHS[-1]
        for key, skip in zip(self.DECODER, reversed(self.WIDTHS[:-1]), strict=True):
            outputs = num_classes if key == "7U" else skip
            self._add(key, below + skip, outputs)
            below = outputs
        self.conv77U = nn.Conv3d(num_classes, num_classes, 3, padding=1)

    def _block(self, key: str, x: Tensor) -> Tensor:
        return F.dropout3d(super()._block(key, x), training=self.training)

    def forward(self, images: Tensor) -> Tensor:
        _check_sides("obelisk_unet", tuple(images.shape[2:]), 1, least=32)
        x = self._block("0", images)
        skips = [x]
        for level in range(1, len(self.WIDTHS)):
            x = self._block(f"{level}{level}", self._block(f"{level}", x))
            skips.append(x)
        for key, skip in zip(self.DECODER, reversed(skips[:-1]), strict=True):
            x = self._block(key, torch.cat((_resize(x, skip.shape[2:]), skip), 1))
        return self.conv77U(x)


def _points(grid: tuple[int, int, int], like: Tensor) -> Tensor:
    """Positions of a regular grid from -1 to 1 along every axis, ``(1, 1, voxels, 1, 3)``, last axis first."""
    sides = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in grid]
    axes = torch.meshgrid(*sides, indexing="ij")
    return torch.stack(axes[::-1], -1).view(1, 1, -1, 1, 3)


def _resize(x: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)


def _three(sides: tuple[int, ...]) -> tuple[int, int, int]:
    return sides[0], sides[1], sides[2]


def _check_sides(name: str, sides: tuple[int, ...], divisor: int, least: int = 8) -> None:
    if any(side % divisor or side < least for side in sides):
        raise ValueError(
            f"{name} expected three sides of at least {least} that are multiples of {divisor}, got {sides}; the "
            f"published weights are for {ROI}"
        )
