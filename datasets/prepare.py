"""From voxels as stored to what a network sees: orientation, spacing, window, crop and pad, in a stated order.

Resampling, cropping and padding are MONAI's, turning is nibabel's; the affine follows all of them, and labels never
meet an interpolation other than nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .base import CaseError, ChannelWindows, IntensityWindow, Stored, Volume
from .geometry import spacing_of, turn
from .limits import require_memory
from .nifti_file import PER_VOXEL
from .windows import PERCENTILES, Windows, choose_windows, describe

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

    from .nifti import RawCase

__all__ = ["PERCENTILES", "Preparation"]

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
        window: original intensities that map to [0, 1]; ``None`` for the 0.5 and 99.5 percentile of each channel,
            a tuple for a choice per channel.
        crop_foreground: keep the bounding box of voxels above 0 in any channel.
        pad_to: least size per axis in voxels, -1 for as is, filled with 0 at the end of the axis.
        fit_to: exact size in voxels, cropped and padded with 0 around the center; replaces ``pad_to``.
        order: of the steps; a ``pad`` before ``window`` fills with 0 of the original unit.

    Raises:
        ValueError: for an unknown or repeated step, a missing ``window`` step or interpolation.

    Example:
        >>> from robustvox.datasets import IntensityWindow
        >>> Preparation(spacing_mm=(1.5, 1.5, 2.0), window=IntensityWindow(-175, 250, "HU")).describe()
        'orientation RAS; spacing 1.5 x 1.5 x 2 mm, linear; window -175..250 HU'
    """

    orientation: str | None = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    interpolation: str = "linear"
    window: Windows = None
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
            "window": describe(self.window),
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
        label = raw.label[None]
        if raw.ignore is not None:
            label = np.concatenate([label, raw.ignore[None]])
        parts = _Parts(raw.image, label.astype(np.float32), raw.affine, len(raw.image))
        window = None
        for step in self.order:
            if step == "orient":
                parts = self._orient(parts)
            elif step == "resample":
                parts = self._resample(parts, raw.id)
            elif step == "window":
                window = choose_windows(parts.image, self.window, raw.id)
                # The intensities of the file go the same way, for models that window them themselves.
                parts = parts._replace(image=np.concatenate([window.apply(parts.image), parts.image]))
            elif step == "crop":
                parts = self._crop(parts, raw.id)
            else:
                parts = self._pad(parts, window)
        if window is None:  # what __post_init__ refuses
            raise ValueError(
                f"expected a window step, since volumes are in [0, 1], got {self.order}; add one"
            )
        return Volume(
            raw.id,
            np.ascontiguousarray(np.clip(parts.image[: parts.channels], 0.0, 1.0)),
            np.ascontiguousarray(np.rint(parts.label[0]).astype(np.int16)),
            spacing_of(parts.affine),
            parts.affine,
            window,
            stored=_stored(raw),
            ignore=None if raw.ignore is None else np.ascontiguousarray(parts.label[1] > 0.5),
            original=np.ascontiguousarray(parts.image[parts.channels :]),
        )

    def _orient(self, parts: _Parts) -> _Parts:
        if self.orientation is None:
            return parts
        image, affine = turn(parts.image, parts.affine, self.orientation)
        label, _ = turn(parts.label, parts.affine, self.orientation)
        return parts._replace(image=image, label=label, affine=affine)

    def _resample(self, parts: _Parts, case_id: str) -> _Parts:
        if self.spacing_mm is None:
            return parts
        from monai.transforms.spatial.array import Spacing

        stored = np.linalg.norm(parts.affine[:3, :3], axis=0)
        if np.allclose(stored, self.spacing_mm, rtol=0, atol=1e-4):
            return parts
        grown = float(np.prod(stored / np.asarray(self.spacing_mm))) * parts.image.size * PER_VOXEL
        require_memory(grown, f"resampling to {_sides(self.spacing_mm)} mm", case_id)
        image, label = parts.tensors()
        if self.interpolation == "linear":
            image = _tensor(Spacing(self.spacing_mm, mode="bilinear", padding_mode="border")(image))
        else:
            for spacing, mode in _spline_stages(stored, self.spacing_mm):
                image = _tensor(Spacing(spacing, mode=mode, padding_mode="nearest")(image))
        label = _tensor(Spacing(self.spacing_mm, mode="nearest", padding_mode="border")(label))
        return parts.taken(image, label)

    def _crop(self, parts: _Parts, case_id: str) -> _Parts:
        if not self.crop_foreground:
            return parts
        from monai.transforms.croppad.array import SpatialCrop

        inside = np.nonzero((parts.image[: parts.channels] > 0).any(axis=0))
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
        image, label = (_tensor(crop(t)) for t in parts.tensors())
        return parts.taken(image, label)

    def _pad(self, parts: _Parts, window: IntensityWindow | ChannelWindows | None) -> _Parts:
        from monai.transforms.croppad.array import ResizeWithPadOrCrop, SpatialPad

        if self.fit_to is not None:
            pad: Any = ResizeWithPadOrCrop(self.fit_to)
        elif self.pad_to is not None:
            pad = SpatialPad(self.pad_to, method="end")
        else:
            return parts
        there = np.ones((1, *parts.image.shape[1:]), np.float32)
        whole = parts._replace(image=np.concatenate([parts.image, there]))
        image, label = (_tensor(pad(t)) for t in whole.tensors())
        padded = parts.taken(image, label)
        values, there = padded.image[:-1].copy(), padded.image[-1:] > 0
        if window is not None:
            # What is 0 to the network is the low end of the window to the file.
            n = parts.channels
            low = window.invert(np.zeros((n, 1, 1, 1), np.float32))
            values[n:] = np.where(there, values[n:], low)
        return padded._replace(image=values)


class _Parts(NamedTuple):
    """A case on its way: the image (below it, once windowed, the file's intensities), the label (and what to ignore)."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    channels: int

    def tensors(self) -> tuple[MetaTensor, MetaTensor]:
        """Both for MONAI, which moves the affine along."""
        import torch
        from monai.data.meta_tensor import MetaTensor

        affine = torch.from_numpy(np.array(self.affine, np.float64))
        return MetaTensor(self.image, affine=affine.clone()), MetaTensor(self.label, affine=affine.clone())

    def taken(self, image: MetaTensor, label: MetaTensor) -> _Parts:
        """Back from MONAI."""
        affine: Any = image.affine
        return self._replace(
            image=image.numpy(), label=label.numpy(), affine=affine.numpy().astype(np.float64)
        )


def _stored(raw: RawCase) -> Stored:
    return Stored(
        affine=raw.affine,
        axes=raw.grid.axes,
        shape=tuple(raw.image.shape),
        spacing_mm=raw.spacing_mm,
        spacing_source=raw.grid.source,
        unit=raw.grid.unit,
        nonzero=tuple(float(np.count_nonzero(channel) / channel.size) for channel in raw.image),
    )


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
