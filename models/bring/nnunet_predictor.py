"""nnU-Net's inference around a network: axes, crop, normalization and windows, all differentiable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor, nn

from ..sliding_window import SlidingWindow

EPS = 1e-8


class NnUNetWindows(SlidingWindow):
    """Windows where nnU-Net v2 puts them: evenly spread, weighted by a gaussian that is cut at four sigma.

    Differs from :class:`SlidingWindow`: MONAI steps regularly and moves only the last window back; here all steps
    shrink alike. The weight's peak is the voxel ``side // 2``, and its zeros are its least positive value.
    nnU-Net blends in half precision, we in the precision of the volume.
    """

    def starts(self, side: int, roi: int) -> list[int]:
        steps = int(np.ceil((side - roi) / (roi * (1 - self.overlap))))
        return [int(np.round((side - roi) / steps * i)) for i in range(steps + 1)] if steps else [0]

    def importance(self, like: Tensor) -> Tensor:
        if self.mode == "constant":
            return like.new_ones((1, 1, *self.roi_size))
        point = np.zeros(self.roi_size)
        point[tuple(side // 2 for side in self.roi_size)] = 1
        weight = gaussian_filter(point, [side / 8 for side in self.roi_size], mode="constant")
        weight /= weight.max()
        weight[weight == 0] = weight[weight > 0].min()
        return torch.as_tensor(weight, dtype=like.dtype, device=like.device)[None, None]


@dataclass(frozen=True)
class Normalization:
    """How nnU-Net normalizes one channel.

    Args:
        scheme: name of nnU-Net's class.
        masked: normalize the nonzero region only, and leave the rest.
        properties: intensities of the training set, in original units; for ``CTNormalization``.
        window: original intensities that are 0 and 1 in our volumes; needed by the schemes that are not affine
            invariant.
    """

    scheme: str
    masked: bool
    properties: Mapping[str, float]
    window: tuple[float, float] | None = None

    def __call__(self, channel: Tensor, mask: Tensor) -> Tensor:
        """Normalize ``(*spatial)``; ``mask`` is where nnU-Net sees the body."""
        if self.scheme == "ZScoreNormalization":
            inside = channel[mask] if self.masked else channel
            centered = (channel - inside.mean()) / inside.std(correction=0).clamp_min(EPS)
            return torch.where(mask, centered, channel) if self.masked else centered
        if self.scheme == "RescaleTo01Normalization":
            shifted = channel - channel.min()
            return shifted / shifted.max().clamp_min(EPS)
        if self.window is None:
            raise ValueError(f"expected the window of original intensities for {self.scheme}, got none")
        low, high = self.window
        original = channel * (high - low) + low
        if self.scheme == "NoNormalization":
            return original
        p = self.properties
        return (original.clamp(p["percentile_00_5"], p["percentile_99_5"]) - p["mean"]) / max(p["std"], EPS)


class NnUNetPredictor(nn.Module):
    """Whole volumes through a network as nnU-Net v2 does it, differentiable with respect to the image.

    nnU-Net reads arrays slices first and then permutes by ``transpose_forward``; our volumes are ``(x, y, z)`` as
    stored, so axes are reversed, then permuted. Each volume of a batch is cropped to its nonzero box, normalized
    over the whole box, padded with 0 after that, and predicted in windows; outside the box the background wins.

    Differs from the source: logits are blended in the volume's precision instead of half; no mirroring; the
    volume is taken to be on the grid of the plan, nothing is resampled.

    Args:
        networks: one per fold; their logits are averaged.
        normalizations: one per image channel.
        patch_size: window in the network's axis order.
        transpose_forward: from nnU-Net's array axes to the network's.
        overlap: share of a window covered by its neighbor; nnU-Net's ``tile_step_size`` is one less it.
        mode: ``"gaussian"`` or ``"constant"``.
        sw_batch_size: windows per forward.
        crop: crop to the nonzero box, as nnU-Net does; off where 0 in our scale is not 0 in the original.

    Shape:
        ``(B, C, *spatial)`` in [0, 1] to logits ``(B, K, *spatial)``.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        normalizations: Sequence[Normalization],
        patch_size: Sequence[int],
        transpose_forward: Sequence[int] = (0, 1, 2),
        *,
        overlap: float = 0.5,
        mode: str = "gaussian",
        sw_batch_size: int | str = 1,
        crop: bool = True,
    ) -> None:
        super().__init__()
        self.windows = nn.ModuleList(
            NnUNetWindows(network, patch_size, overlap, sw_batch_size, mode) for network in networks
        )
        self.normalizations = tuple(normalizations)
        last = len(patch_size) - 1
        self.order = tuple(last - axis for axis in transpose_forward)
        self.crop = crop

    @property
    def roi_size(self) -> tuple[int, ...]:
        """The window in our axis order."""
        patch: Any = self.windows[0]
        return tuple(patch.roi_size[axis] for axis in np.argsort(self.order))

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != len(self.order) + 2 or images.shape[1] != len(self.normalizations):
            raise ValueError(
                f"expected images (B, {len(self.normalizations)}, *spatial) with {len(self.order)} spatial axes, "
                f"got shape {tuple(images.shape)}"
            )
        return torch.cat([self._predict(image) for image in images])

    def _predict(self, image: Tensor) -> Tensor:
        turned = image.permute(0, *(axis + 1 for axis in self.order))
        mask, box = _nonzero(turned) if self.crop else (torch.ones_like(turned[0], dtype=torch.bool), None)
        box = box or tuple(slice(None) for _ in self.order)
        channels = [n(c[box], mask[box]) for n, c in zip(self.normalizations, turned, strict=True)]
        normalized = torch.stack(channels)[None].contiguous()
        logits = torch.stack([windows(normalized) for windows in self.windows]).mean(0)
        if logits.shape[2:] != turned.shape[1:]:
            full = logits.new_zeros((1, logits.shape[1], *turned.shape[1:]))
            # Far below any other class, yet finite so that no loss turns to NaN.
            full[:, 1:] = -1e4
            full[(slice(None), slice(None), *box)] = logits
            logits = full
        return logits.permute(0, 1, *(int(axis) + 2 for axis in np.argsort(self.order)))


def _nonzero(image: Tensor) -> tuple[Tensor, tuple[slice, ...] | None]:
    """Where any channel ``(C, *spatial)`` is not 0, holes filled, and the bounding box of that."""
    filled = np.asarray(binary_fill_holes((image.detach() != 0).any(0).cpu().numpy()))
    if not filled.any():
        return torch.ones_like(image[0], dtype=torch.bool), None
    spans = [
        np.flatnonzero(filled.any(tuple(a for a in range(filled.ndim) if a != axis)))
        for axis in range(filled.ndim)
    ]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    return torch.as_tensor(filled, device=image.device), box
