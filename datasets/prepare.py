"""From voxels as stored to what a network sees: orientation, spacing, window, crop and pad, in a stated order.

Every step is MONAI's; the affine follows all of them, and labels never meet an interpolation other than nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import CaseError, ChannelWindows, IntensityWindow, Volume

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from .nifti import RawCase

PERCENTILES = (0.5, 99.5)
"""MRI has no absolute scale: each volume and channel is mapped by its own percentiles."""

STEPS = ("orient", "resample", "window", "crop", "pad")

ANISOTROPY = 3.0
"""Above this ratio of voxel sides a spline across slices would ring; slices are taken as they are."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How one case becomes a :class:`Volume`; the steps run in ``order``, each at most once.

    Args:
        orientation: axis codes, ``"RAS"``, or ``None`` for the axes as stored. Oblique volumes take the nearest
            axes and stay oblique.
        spacing_mm: target voxel sides after ``orient``, or ``None`` for the grid as stored.
        interpolation: ``"linear"``, or ``"spline"`` (cubic; nearest across slices where voxels are more than
            three times as long as wide). Labels are always nearest.
        window: original intensities that map to [0, 1]; ``None`` for the 0.5 and 99.5 percentile of each channel.
        crop_foreground: keep the bounding box of voxels above 0 in any channel.
        pad_to: least size per axis in voxels, -1 for as is, filled with 0 at the end of the axis.
        fit_to: exact size in voxels, cropped and padded with 0 around the center; replaces ``pad_to``.
        order: of the steps; a ``pad`` before ``window`` fills with 0 of the original unit.

    Raises:
        ValueError: for an unknown or repeated step, a missing ``window`` step or interpolation.

    Example:
        >>> Preparation(spacing_mm=(1.5, 1.5, 2.0), window=IntensityWindow(-175, 250, "HU")).describe()
        'orientation RAS; spacing 1.5 x 1.5 x 2 mm, linear; window -175..250 HU'
    """

    orientation: str | None = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    interpolation: str = "linear"
    window: IntensityWindow | None = None
    crop_foreground: bool = False
    pad_to: tuple[int, int, int] | None = None
    fit_to: tuple[int, int, int] | None = None
    order: tuple[str, ...] = STEPS

    def __post_init__(self) -> None:
        if set(self.order) - set(STEPS) or len(set(self.order)) != len(self.order):
            raise ValueError(f"expected steps among {', '.join(STEPS)}, each once, got {self.order}")
        if "window" not in self.order:
            raise ValueError(f"expected a window step, since volumes are in [0, 1], got {self.order}")
        if self.interpolation not in ("linear", "spline"):
            raise ValueError(f"expected interpolation linear or spline, got {self.interpolation!r}")

    def describe(self) -> str:
        """One line for the provenance, in the order things happen."""
        parts = {
            "orient": f"orientation {self.orientation}" if self.orientation else "",
            "resample": f"spacing {_sides(self.spacing_mm)} mm, {self.interpolation}"
            if self.spacing_mm
            else "",
            "window": f"window {self.window.low:g}..{self.window.high:g} {self.window.unit}"
            if self.window
            else f"per-volume percentiles {PERCENTILES}",
            "crop": "crop to voxels above 0" if self.crop_foreground else "",
            "pad": f"fit to {_sides(self.fit_to)}"
            if self.fit_to
            else f"pad at the end to {_sides(self.pad_to)}"
            if self.pad_to
            else "",
        }
        return "; ".join(parts[step] for step in self.order if parts[step])

    def __call__(self, raw: RawCase) -> Volume:
        """Prepare one checked case.

        Raises:
            CaseError: an image without contrast, or nothing left after cropping.
        """
        import torch
        from monai.data.meta_tensor import MetaTensor

        pair = [
            MetaTensor(array.astype(np.float32), affine=torch.from_numpy(raw.affine.copy()))
            for array in (raw.image, raw.label[None])
        ]
        window: IntensityWindow | ChannelWindows | None = None
        for step in self.order:
            if step == "orient":
                pair = self._orient(pair)
            elif step == "resample":
                pair = self._resample(pair)
            elif step == "window":
                values = pair[0].numpy()
                window = self.window or percentile_windows(values, raw.id)
                pair[0] = MetaTensor(window.apply(values), affine=pair[0].affine)
            elif step == "crop":
                pair = self._crop(pair, raw.id)
            else:
                pair = self._pad(pair)
        if window is None:  # what __post_init__ refuses
            raise ValueError(
                f"expected a window step, since volumes are in [0, 1], got {self.order}; add one"
            )
        affine = pair[0].affine.numpy().astype(np.float64)
        spacing = tuple(round(float(s), 6) for s in np.linalg.norm(affine[:3, :3], axis=0))
        image = np.ascontiguousarray(np.clip(pair[0].numpy(), 0.0, 1.0))
        label = np.ascontiguousarray(np.rint(pair[1][0].numpy()).astype(np.int16))
        return Volume(raw.id, image, label, spacing, affine, window)

    def _orient(self, pair: list[MetaTensor]) -> list[MetaTensor]:
        if self.orientation is None:
            return pair
        from monai.transforms.spatial.array import Orientation

        # The axis names are MONAI's own default, given so that it does not warn about their coming change.
        turn = Orientation(axcodes=self.orientation, labels=(("L", "R"), ("P", "A"), ("I", "S")))
        return [_tensor(turn(t)) for t in pair]

    def _resample(self, pair: list[MetaTensor]) -> list[MetaTensor]:
        if self.spacing_mm is None:
            return pair
        from monai.transforms.spatial.array import Spacing

        stored = np.linalg.norm(pair[0].affine.numpy()[:3, :3], axis=0)
        if np.allclose(stored, self.spacing_mm, rtol=0, atol=1e-4):
            return pair
        if self.interpolation == "linear":
            image = _tensor(Spacing(self.spacing_mm, mode="bilinear", padding_mode="border")(pair[0]))
        else:
            image = pair[0]
            for spacing, mode in _spline_stages(stored, self.spacing_mm):
                image = _tensor(Spacing(spacing, mode=mode, padding_mode="nearest")(image))
        label = _tensor(Spacing(self.spacing_mm, mode="nearest", padding_mode="border")(pair[1]))
        return [image, label]

    def _crop(self, pair: list[MetaTensor], case_id: str) -> list[MetaTensor]:
        if not self.crop_foreground:
            return pair
        from monai.transforms.croppad.array import SpatialCrop

        inside = np.nonzero((pair[0].numpy() > 0).any(axis=0))
        if not inside[0].size:
            raise CaseError(
                case_id,
                "an image with foreground",
                "no voxel above the window",
                "check that intensities are in the original unit (HU for CT)",
            )
        crop = SpatialCrop(
            roi_start=[int(i.min()) for i in inside], roi_end=[int(i.max()) + 1 for i in inside]
        )
        return [_tensor(crop(t)) for t in pair]

    def _pad(self, pair: list[MetaTensor]) -> list[MetaTensor]:
        from monai.transforms.croppad.array import ResizeWithPadOrCrop, SpatialPad

        if self.fit_to is not None:
            return [_tensor(ResizeWithPadOrCrop(self.fit_to)(t)) for t in pair]
        if self.pad_to is not None:
            return [_tensor(SpatialPad(self.pad_to, method="end")(t)) for t in pair]
        return pair


def percentile_window(image: np.ndarray, case_id: str) -> IntensityWindow:
    """The window that maps the 0.5 and 99.5 percentile of an image to 0 and 1.

    Raises:
        CaseError: the percentiles coincide.
    """
    low, high = (float(v) for v in np.percentile(image, PERCENTILES))
    if not high > low:
        raise CaseError(
            case_id,
            "an image with contrast",
            f"percentiles {low:.6g} and {high:.6g}",
            "drop the empty volume",
        )
    return IntensityWindow(low, high)


def percentile_windows(image: np.ndarray, case_id: str) -> IntensityWindow | ChannelWindows:
    """:func:`percentile_window` of each channel of ``(C, *spatial)``; a single channel gives a plain window."""
    windows = tuple(percentile_window(channel, case_id) for channel in image)
    return windows[0] if len(windows) == 1 else ChannelWindows(windows)


def _spline_stages(stored: np.ndarray, target: tuple[float, ...]) -> list[tuple[tuple[float, ...], int]]:
    """Spacings to visit and the spline order of each: cubic, but nearest along one far longer axis."""
    along = int(np.argmax(stored))
    if stored.max() / stored.min() <= ANISOTROPY:
        return [(target, 3)]
    in_plane = tuple(float(stored[i]) if i == along else target[i] for i in range(len(target)))
    return [(in_plane, 3), (target, 0)]


def _tensor(value: Any) -> MetaTensor:
    """MONAI declares less than it returns."""
    return value


def _sides(sizes: tuple[float, ...] | None) -> str:
    return " x ".join("as is" if s == -1 else f"{s:g}" for s in sizes or ())
