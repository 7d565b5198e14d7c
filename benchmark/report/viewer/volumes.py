"""What a viewer holds: the volumes of an attacked case as small NIfTI files, cropped where they are large."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from robustvox.datasets import ChannelWindows, IntensityWindow, Volume
from robustvox.datasets.geometry import axes_of

from ...harness.compute import ClassScore, Scored
from ...metrics.distortion import Distortion
from ...plan.plan import Plan
from ...records.unit import Unit
from ...show.figures.planes import most_changed_voxel

MOST_VOXELS = 400_000
"""Of a volume that is embedded whole: six volumes of it and NiiVue stay under 6 MB. Larger ones are cropped."""

_STEPS = 2**15 - 1  # of an int16 on each side of its middle


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """An attacked case as the viewer shows it.

    Args:
        image, adversarial: intensities in ``unit``.
        labels: class ids by what says them, ``"reference"``, ``"clean"`` and ``"attacked"`` (predictions).
        affine: voxel to world, mm.
        unit: of intensities, for example HU.
        window: lowest and highest intensity that the network saw.
        class_names: one per class id, background first.
        before, after: scores of the clean and of the attacked prediction.
        dataset, case, models, attack: what it is; ``models`` is ``surrogate → target`` where they differ.
        start: the voxel that is shown first.
        notes: what else to know.

    Shape:
        image, adversarial: ``(X, Y, Z)`` float64.
        labels: ``(X, Y, Z)`` integers each.
        affine: ``(4, 4)``.
    """

    image: np.ndarray
    adversarial: np.ndarray
    labels: Mapping[str, np.ndarray]
    affine: np.ndarray
    unit: str
    window: tuple[float, float]
    class_names: Sequence[str]
    before: Sequence[ClassScore]
    after: Sequence[ClassScore]
    dataset: str
    case: str
    models: str
    attack: str
    start: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Attacked:
    """A case before and after an attack, as a run or its files give it.

    Args:
        volume: the case.
        image: what the model was given, ``(C, *spatial)`` in [0, 1].
        clean, attacked: what it predicted on the case and on ``image``, ``(*spatial)``.
        before, after: the scores of both.
        moved: how far ``image`` is from the case.
        unit: as which it is scored.
        models: for people; ``surrogate → target`` where they differ.
        class_names: one per class id, background first.
    """

    volume: Volume
    image: np.ndarray
    clean: np.ndarray
    attacked: np.ndarray
    before: Sequence[ClassScore]
    after: Sequence[ClassScore]
    moved: Distortion
    unit: Unit
    models: str
    class_names: Sequence[str]

    @classmethod
    def of(cls, plan: Plan, clean: Scored, attacked: Scored, data_sha256: str = "") -> Attacked:
        """From predictions that were just made.

        Args:
            plan: names dataset, classes, protocol and seed.
            clean, attacked: the clean and the adversarial image on one target.
            data_sha256: fingerprint of the case, where it is known.

        Raises:
            ValueError: labels that overlap, which no color can show.
        """
        if getattr(plan.dataset, "overlapping", ()):
            raise ValueError(
                f"expected classes that exclude one another for the viewer, got labels of {plan.dataset.name} that "
                "overlap; give one label at a time"
            )
        unit, source = plan.unit(attacked.job, attacked.target, data_sha256), attacked.job.surrogate
        surrogate = source.shown if source else unit.surrogate
        same = (unit.surrogate, unit.surrogate_sha256) == (unit.target, unit.target_sha256)
        return cls(
            volume=attacked.volume,
            image=attacked.image,
            clean=clean.prediction,
            attacked=attacked.prediction,
            before=clean.outcome.scores,
            after=attacked.outcome.scores,
            moved=attacked.outcome.distortion,
            unit=unit,
            models=attacked.target.shown if same else f"{surrogate} → {attacked.target.shown}",
            class_names=tuple(plan.dataset.class_names),
        )


def scene_of(case: Attacked, notes: Sequence[str] = ()) -> Scene:
    """The scene of one case on one target, cropped to :data:`MOST_VOXELS`; notes say what was left out.

    Of several channels the one that changed most is shown.

    Args:
        case: what is shown.
        notes: what else to know.

    Raises:
        ValueError: if the volume has not three dimensions.
    """
    volume, unit, moved = case.volume, case.unit, case.moved
    if volume.label.ndim != 3:
        raise ValueError(
            f"expected a volume of three dimensions for the viewer, got {volume.label.ndim}; "
            "`figures` draws slices"
        )
    change = np.square(case.image.astype(np.float64) - volume.image)
    channel = int(np.argmax(change.reshape(len(change), -1).sum(axis=1)))
    window = _window(volume, channel)
    low, high = window.low, window.high
    said = [
        f"Attack {unit.attack}, seed {unit.seed}, {unit.protocol}.",
        f"Measured: L-inf {255 * moved.linf:.3g}/255, L2 {moved.l2:.3g}, PSNR {moved.psnr:.3g} dB, SSIM {moved.ssim:.3f}.",
        *notes,
    ]
    if len(volume.image) > 1:
        said.append(f"Channel {channel} of {len(volume.image)} is shown, the one that changed most.")
    labels = {"reference": volume.label, "clean": case.clean, "attacked": case.attacked}
    box = crop_box(labels, MOST_VOXELS)
    if box != tuple(slice(0, n) for n in volume.label.shape):
        parts = ", ".join(
            f"{part.start} to {part.stop - 1} of {n}" for part, n in zip(box, volume.label.shape, strict=True)
        )
        said.append(
            f"Cropped to keep this file small: voxels {parts}, counted along {axes_of(volume.affine)}, around the "
            "organs and what was predicted; scores are those of the whole volume."
        )
    cut = {name: np.asarray(values)[box] for name, values in labels.items()}
    affine = np.array(volume.affine, float)
    affine[:, 3] = affine @ np.array([*(part.start for part in box), 1.0])
    return Scene(
        image=low + (high - low) * volume.image[channel][box].astype(np.float64),
        adversarial=low + (high - low) * case.image[channel][box].astype(np.float64),
        labels=cut,
        affine=affine,
        unit=window.unit,
        window=(low, high),
        class_names=case.class_names,
        before=case.before,
        after=case.after,
        dataset=unit.dataset,
        case=volume.id,
        models=case.models,
        attack=unit.attack,
        start=most_changed_voxel(cut["clean"], cut["attacked"], cut["reference"])[0],
        notes=tuple(said),
    )


def _window(volume: Volume, channel: int) -> IntensityWindow:
    window = volume.window
    return window.windows[channel] if isinstance(window, ChannelWindows) else window


def crop_box(labels: Mapping[str, np.ndarray], most: int) -> tuple[slice, ...]:
    """The part of a volume that is shown: all of it, or at most ``most`` voxels around what is labeled.

    Around the box of every foreground voxel as much of the surroundings as fits is kept; where the box itself is
    larger it shrinks evenly towards the middle of the voxels in which the two predictions differ.

    Example:
        >>> label = np.zeros((100, 100, 100), int)
        >>> label[10:20, 40:60, 50] = 1
        >>> box = crop_box({"reference": label, "clean": label, "attacked": 0 * label}, 8000)
        >>> [(part.start, part.stop) for part in box]
        [(5, 25), (40, 60), (40, 60)]
    """
    shape = labels["reference"].shape
    if np.prod(shape) <= most:
        return tuple(slice(0, n) for n in shape)
    foreground = np.zeros(shape, bool)
    for values in labels.values():
        foreground |= np.asarray(values) != 0
    points = np.nonzero(foreground)
    if not points[0].size:
        points = tuple(np.array([0, n - 1]) for n in shape)
    low = np.array([axis.min() for axis in points])
    high = np.array([axis.max() + 1 for axis in points])
    middle = (low + high) / 2
    if np.prod(high - low) > most:
        differ = np.nonzero(np.asarray(labels["clean"]) != np.asarray(labels["attacked"]))
        middle = np.array([axis.mean() for axis in differ]) if differ[0].size else middle
        size = _shrunk(high - low, most)
    else:
        size = _grown(high - low, np.array(shape), most)
    start = np.clip(np.round(middle - size / 2), 0, np.array(shape) - size).astype(int)
    return tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))


def _shrunk(size: np.ndarray, most: int) -> np.ndarray:
    """The extents of a box of at most ``most`` voxels, the longest sides cut first."""
    low, high = 1, int(size.max())
    while low < high:  # the largest side that fits
        side = (low + high + 1) // 2
        low, high = (side, high) if np.prod(np.minimum(size, side)) <= most else (low, side - 1)
    return np.minimum(size, low)


def _grown(size: np.ndarray, shape: np.ndarray, most: int) -> np.ndarray:
    """The extents of a box of at most ``most`` voxels, the shortest sides of ``size`` grown first."""
    low, high = 1, int(shape.max())
    while low < high:
        side = (low + high + 1) // 2
        fits = np.prod(np.minimum(np.maximum(size, side), shape).astype(float)) <= most
        low, high = (side, high) if fits else (low, side - 1)
    return np.minimum(np.maximum(size, low), shape)


def embedded(scene: Scene) -> dict[str, str]:
    """Every volume of a scene as base64 of a compressed NIfTI file, by name; equal scenes give equal texts.

    Intensities are 16-bit with a slope: exact to 1/65534 of their range. The difference is attacked minus clean.
    """
    low, high = scene.window
    return {
        "image": _intensities(scene.image, (low + high) / 2, (high - low) / 2, scene.affine),
        "adversarial": _intensities(scene.adversarial, (low + high) / 2, (high - low) / 2, scene.affine),
        "difference": _intensities(scene.adversarial - scene.image, 0.0, largest_change(scene), scene.affine),
        **{name: _file(_label_type(values), scene.affine) for name, values in scene.labels.items()},
    }


def largest_change(scene: Scene) -> float:
    """The largest change of an intensity in what is shown; 1 where nothing changed, for a scale needs two ends."""
    return float(np.abs(scene.adversarial - scene.image).max()) or 1.0


def _label_type(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8 if values.max(initial=0) < 256 else np.int16)


def _intensities(values: np.ndarray, middle: float, half: float, affine: np.ndarray) -> str:
    steps = np.rint((values - middle) / (half or 1.0) * _STEPS)
    return _file(np.clip(steps, -_STEPS, _STEPS).astype(np.int16), affine, ((half or 1.0) / _STEPS, middle))


def _file(array: np.ndarray, affine: np.ndarray, scaling: tuple[float, float] | None = None) -> str:
    nifti = nib.Nifti1Image(array, affine)
    nifti.header.set_xyzt_units("mm")
    if scaling is not None:
        nifti.header.set_slope_inter(*scaling)
    return base64.b64encode(gzip.compress(nifti.to_bytes(), 6, mtime=0)).decode("ascii")
