"""nnU-Net's inference around a network: axes, crop, normalization, spacing and windows, all differentiable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..case import CasePredictor, CaseSource, Turn, turn, turn_back
from ..limits import require_memory
from ..resampling import NnUNetResampling
from ..sliding_window import SlidingWindow
from ..window_padding import pad_to

EPS = 1e-8
SCALE = 10
"""nnU-Net's `value_scaling_factor`, which keeps more of the weights in the range of half precision."""


class NnUNetWindows(SlidingWindow):
    """Windows where nnU-Net v2 puts them: evenly spread, weighted by a gaussian that is cut at four sigma.

    Differs from :class:`SlidingWindow`: MONAI steps regularly and moves only the last window back; here all steps
    shrink alike. The weight's peak is the voxel ``side // 2``, and its zeros are its least positive value.
    nnU-Net blends in half precision: so does :meth:`deployed`, with the gradient of single precision.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._half: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def starts(self, side: int, roi: int) -> list[int]:
        steps = int(np.ceil((side - roi) / (roi * (1 - self.overlap))))
        return [int(np.round((side - roi) / steps * i)) for i in range(steps + 1)] if steps else [0]

    def importance(self, like: Tensor) -> Tensor:
        if self.mode == "constant":
            return like.new_ones((1, 1, *self.roi_size))
        return torch.tensor(_gaussian(self.roi_size), dtype=like.dtype, device=like.device)[None, None]

    def half_weights(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Window weight ``(1, *roi)`` in half precision, and the sum of all windows' over the volume ``(*spatial)``."""
        key = (like.shape[2:], like.device)
        if key not in self._half:
            whole = self.importance(like.new_empty(0, dtype=torch.float64))[0]
            weight = (whole * SCALE if self.mode == "gaussian" else whole).half()
            weight[weight == 0] = weight[weight > 0].min()
            total = like.new_zeros(like.shape[2:], dtype=torch.half)
            for _, box in self.windows(1, like.shape[2:]):
                total[box] += weight[0]
            # One entry is enough: an attack asks for the same shape at every step.
            self._half = {key: (weight, total)}
        return self._half[key]

    @torch.no_grad()
    def deployed(self, images: Tensor) -> Tensor:
        """What nnU-Net stores of ``(1, C, *spatial)``: windows one by one, weighted, summed and divided in half precision.

        In half precision the weights of a window's corners are a few units in the last place, and close logits become
        equal: both decide classes there.
        """
        padded, crop = pad_to(images, self.roi_size)
        weight, total = self.half_weights(padded)
        output: Tensor | None = None
        for _, box in self.windows(1, padded.shape[2:]):
            logits = self._network(padded[(slice(None), slice(None), *box)])[0]
            if output is None:
                output = logits.new_zeros((len(logits), *padded.shape[2:]), dtype=torch.half)
            output[(slice(None), *box)] += logits * weight
        if output is None:
            raise ValueError(f"expected at least one window, got a volume of shape {tuple(images.shape)}")
        output /= total
        if not torch.isfinite(output).all():
            raise ValueError(
                "expected logits that half precision holds, in which nnU-Net blends windows, got infinity; nnU-Net itself "
                "stops here: check the weights"
            )
        return output[None][crop]


@lru_cache(maxsize=8)
def _gaussian(roi_size: tuple[int, ...]) -> np.ndarray:
    point = np.zeros(roi_size)
    point[tuple(side // 2 for side in roi_size)] = 1
    weight = gaussian_filter(point, [side / 8 for side in roi_size], mode="constant")
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return weight


class _Deployed(torch.autograd.Function):
    """The values of :meth:`NnUNetWindows.deployed` with the gradient of the same windows blended without rounding."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, windows: NnUNetWindows) -> Tensor:
        ctx.windows = windows
        ctx.save_for_backward(images)
        return windows.deployed(images).to(images.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (images,) = ctx.saved_tensors
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = ctx.windows(images)
        return torch.autograd.grad(logits, images, gradient)[0], None


class _Rounded(torch.autograd.Function):
    """To half precision and back; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        return values.half().to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        del ctx
        return gradient


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """``function.apply``, which torch does not type."""
    call: Any = function.apply
    return call(*arguments)


@dataclass(frozen=True)
class Normalization:
    """How nnU-Net normalizes one channel.

    Args:
        scheme: name of nnU-Net's class.
        masked: normalize the nonzero region only, and leave the rest.
        properties: intensities of the training set, in original units; for ``CTNormalization``.
        window: original intensities that are 0 and 1 in our volumes, for a volume of which nothing else is known;
            needed by the schemes that are not affine invariant.
    """

    scheme: str
    masked: bool
    properties: Mapping[str, float]
    window: tuple[float, float] | None = None

    def __call__(self, channel: Tensor, mask: Tensor, *, original: bool = False) -> Tensor:
        """Normalize ``(*spatial)``; ``mask`` is where nnU-Net sees the body.

        Args:
            channel: in [0, 1], or in the unit of the file.
            mask: of the body.
            original: whether ``channel`` is in the unit of the file.
        """
        if self.scheme == "ZScoreNormalization":
            inside = channel[mask] if self.masked else channel
            centered = (channel - inside.mean()) / inside.std(correction=0).clamp_min(EPS)
            return torch.where(mask, centered, channel) if self.masked else centered
        if self.scheme == "RescaleTo01Normalization":
            shifted = channel - channel.min()
            return shifted / shifted.max().clamp_min(EPS)
        if not original:
            if self.window is None:
                raise ValueError(
                    f"expected the original intensities for {self.scheme}, got values in [0, 1]; bind the predictor to "
                    "the case, or give window=(low,high)"
                )
            low, high = self.window
            channel = channel * (high - low) + low
        if self.scheme == "NoNormalization":
            return channel
        p = self.properties
        return (channel.clamp(p["percentile_00_5"], p["percentile_99_5"]) - p["mean"]) / max(p["std"], EPS)


class NnUNetPredictor(CasePredictor):
    """Whole volumes through a network as nnU-Net v2 does it, differentiable with respect to the image.

    nnU-Net reads arrays slices first, in the axes of the file or turned to RAS as its plan's reader does, and then
    permutes them by ``transpose_forward``. Each volume is cropped to its nonzero box, normalized over the whole box,
    resampled to the plan's spacing, padded with 0 after that, and predicted in windows; the logits are resampled to
    the box, and outside of it the background wins.

    Bound to a case (``for_case``) the network sees the intensities of the file. Without one, the image is taken to be
    on the grid of the plan in the axes of the file, and intensities in [0, 1] to be the file's.

    Differs from the source: no mirroring; without a case logits are blended in the volume's precision instead of half.

    Args:
        networks: one per fold; their logits are averaged.
        normalizations: one per image channel.
        patch_size: window in the network's axis order.
        transpose_forward: from nnU-Net's array axes to the network's.
        overlap: share of a window covered by its neighbor; nnU-Net's ``tile_step_size`` is one less it.
        mode: ``"gaussian"`` or ``"constant"``.
        sw_batch_size: windows per forward.
        crop: crop to the nonzero box, as nnU-Net does; off where 0 in our scale is not 0 in the original.
        spacing_mm: of the plan, in the network's axis order; None to resample nothing.
        resampling: of images and of logits.
        reorient: turn to RAS on reading, as readers ``...WithReorient`` do.
        held_out: by case, which of ``networks`` was not trained on it and predicts it alone; None for all of them.

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
        spacing_mm: Sequence[float] | None = None,
        resampling: tuple[NnUNetResampling, NnUNetResampling] | None = None,
        reorient: bool = False,
        held_out: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.windows = nn.ModuleList(
            NnUNetWindows(network, patch_size, overlap, sw_batch_size, mode) for network in networks
        )
        self.normalizations = tuple(normalizations)
        last = len(patch_size) - 1
        self.order = tuple(last - axis for axis in transpose_forward)
        self.crop = crop
        self.spacing_mm = None if spacing_mm is None else tuple(float(side) for side in spacing_mm)
        self.resampling = resampling or (NnUNetResampling(), NnUNetResampling(order=1))
        self.reorient = reorient
        self.held_out = held_out

    @property
    def roi_size(self) -> tuple[int, ...]:
        """The window in the order of the file's axes."""
        patch: Any = self.windows[0]
        return tuple(patch.roi_size[axis] for axis in np.argsort(self.order))

    def for_case(self, source: CaseSource) -> nn.Module:
        self._networks(source)
        return super().for_case(source)

    def sides(self, source: CaseSource) -> tuple[float, ...]:
        axes = self._turn(source)[0]
        voxels = [float(source.image.shape[1 + axis]) for axis in axes]
        if self.spacing_mm is None:
            return tuple(voxels)
        plan = [self.spacing_mm[self.order.index(axis)] for axis in range(len(axes))]
        own = [source.spacing_mm[axis] for axis in axes]
        return tuple(side * old / new for side, old, new in zip(voxels, own, plan, strict=True))

    def _turn(self, source: CaseSource) -> Turn:
        """From the axes of the image to those nnU-Net's reader gives."""
        return source.turn_to("RAS") if self.reorient else source.turn_to_stored()

    def predict(self, images: Tensor, source: CaseSource | None) -> Tensor:
        if images.ndim != len(self.order) + 2 or images.shape[1] != len(self.normalizations):
            raise ValueError(
                f"expected images (B, {len(self.normalizations)}, *spatial) with {len(self.order)} spatial axes, "
                f"got shape {tuple(images.shape)}"
            )
        if source is None:
            return torch.cat([self._predict(image, None, None, self.crop) for image in images])
        stored = self._turn(source)
        spacing = tuple(source.spacing_mm[axis] for axis in stored[0])
        values = turn(source.intensities(images), stored)
        # Where the file's intensities are not known, 0 is 0 only where the window begins there.
        known = source.original is not None or not any(source.low)
        logits = [self._predict(image, source, spacing, known) for image in values]
        return turn_back(torch.cat(logits), stored)

    def _predict(
        self, image: Tensor, source: CaseSource | None, spacing: tuple[float, ...] | None, crop: bool
    ) -> Tensor:
        """One ``(C, *spatial)`` in the axes of the file; with ``spacing`` in mm where it is known."""
        turned = image.permute(0, *(axis + 1 for axis in self.order))
        mask, box = _nonzero(turned) if crop else (torch.ones_like(turned[0], dtype=torch.bool), None)
        box = box or tuple(slice(None) for _ in self.order)
        channels = [
            n(c[box], mask[box], original=source is not None)
            for n, c in zip(self.normalizations, turned, strict=True)
        ]
        normalized = torch.stack(channels)
        cropped = tuple(normalized.shape[1:])
        own = None if spacing is None else tuple(spacing[axis] for axis in self.order)
        if own is not None and self.spacing_mm is not None:
            shape = [
                round(old / new * side) for old, new, side in zip(own, self.spacing_mm, cropped, strict=True)
            ]
            if min(shape) < 1:
                raise ValueError(
                    f"expected a volume of at least a voxel at {side_text(self.spacing_mm)} mm, found {cropped} at "
                    f"{side_text(own)} mm; check its spacing"
                )
            needed = 4.0 * len(normalized) * math.prod(map(float, shape))
            require_memory(needed, f"resampling to {side_text(self.spacing_mm)} mm")
            normalized = self.resampling[0](normalized, shape, own, self.spacing_mm)
        normalized = normalized[None].contiguous()
        logits = self._blended(normalized, source)
        if own is not None and self.spacing_mm is not None:
            logits = self.resampling[1](logits[0], cropped, self.spacing_mm, own)[None]
            logits = logits if source is None else apply(_Rounded, logits)
        if cropped != tuple(turned.shape[1:]):
            full = logits.new_zeros((1, logits.shape[1], *turned.shape[1:]))
            # Far below any other class, yet finite so that no loss turns to NaN.
            full[:, 1:] = -1e4
            full[(slice(None), slice(None), *box)] = logits
            logits = full
        return logits.permute(0, 1, *(int(axis) + 2 for axis in np.argsort(self.order)))

    def _blended(self, image: Tensor, source: CaseSource | None) -> Tensor:
        """Logits ``(1, K, *spatial)`` of a preprocessed image; of a case, with the values nnU-Net stores."""
        networks: Any = self._networks(source)
        if source is None:
            return torch.stack([windows(image) for windows in networks]).mean(0)
        total, *others = (apply(_Deployed, image, windows) for windows in networks)
        for logits in others:
            total = apply(_Rounded, total + logits)
        return apply(_Rounded, total / len(networks)) if others else total

    def _networks(self, source: CaseSource | None) -> Sequence[nn.Module]:
        """Those that predict a case."""
        everyone: Any = self.windows
        if self.held_out is None or source is None:
            return everyone
        if source.id not in self.held_out:
            raise ValueError(
                f"expected a case that one of the folds was validated on, found {source.id}, which is in none of them; "
                "choose one fold or several (fold=0+1+2+3+4)"
            )
        return [everyone[self.held_out[source.id]]]


def side_text(spacing: Sequence[float]) -> str:
    """Sides of a voxel for people."""
    return " x ".join(f"{side:g}" for side in spacing)


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
