"""Anatomy of the phantom: where organs lie, how they are painted, how one patient differs from the next.

Everything is placed in a body frame in millimeters, RAS: ``+x`` toward the patient's right, ``+y`` anterior,
``+z`` superior, origin in the middle of the upper abdomen. One pose and one smooth warp carry the body frame
to the voxel grid, so that neighboring organs deform together and stay neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from scipy import ndimage

Vector = Sequence[float] | np.ndarray

AIR_HU = -1000.0
FAT_HU = -100.0
CLASS_NAMES = (
    "background",
    "liver",
    "spleen",
    "right_kidney",
    "left_kidney",
    "aorta",
    "stomach",
    "gallbladder",
)
# Later organs are painted over earlier ones: what is large and soft yields to what is small or firm.
PAINT_ORDER = ("liver", "stomach", "spleen", "right_kidney", "left_kidney", "gallbladder", "aorta")
# Fewer voxels than this and the Dice of an organ says more about rounding than about a network.
MINIMUM_VOXELS = MappingProxyType(
    {
        "liver": 1500,
        "spleen": 200,
        "right_kidney": 200,
        "left_kidney": 200,
        "aorta": 80,
        "stomach": 300,
        "gallbladder": 40,
    }
)
_ENDLESS = 1e4  # semi-axis in mm of what runs through the whole volume: body wall, vessels, spine


@dataclass(frozen=True)
class Blob:
    """A superellipsoid in the body frame.

    Args:
        center: x, y, z in mm.
        radii: semi-axes in mm.
        power: 2 is an ellipsoid, larger is boxier.
        axes: ``(3, 3)`` rotation from the blob's own axes to the body frame.
    """

    center: Vector
    radii: Vector
    power: float = 2.0
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))


@dataclass(frozen=True)
class Template:
    """An average organ: a union of blobs, less the blobs carved out of it."""

    parts: tuple[Blob, ...]
    carved: tuple[Blob, ...] = ()


TEMPLATES = MappingProxyType(
    {
        "liver": Template((Blob((76, 6, 30), (66, 74, 66), 2.4), Blob((8, 42, 46), (62, 34, 34), 2.2))),
        "spleen": Template(
            (Blob((-104, -34, 42), (28, 46, 46), 2.2),), (Blob((-62, -22, 40), (24, 34, 40)),)
        ),
        "right_kidney": Template(
            (Blob((60, -46, -42), (28, 27, 52)),), (Blob((30, -38, -42), (14, 12, 15)),)
        ),
        "left_kidney": Template(
            (Blob((-62, -46, -30), (28, 27, 52)),), (Blob((-32, -38, -30), (14, 12, 15)),)
        ),
        "aorta": Template((Blob((-11, -36, 0), (12.5, 12.5, _ENDLESS)),)),
        "stomach": Template((Blob((-68, 26, 36), (36, 34, 44), 2.2), Blob((-32, 46, 2), (38, 26, 24)))),
        "gallbladder": Template((Blob((50, 48, -22), (18, 20, 27)),)),
    }
)


def rotation(degrees: Vector) -> np.ndarray:
    """Rotation matrix ``(3, 3)`` from angles in degrees about x, then y, then z.

    Example:
        >>> bool(np.allclose(rotation((0, 0, 90)) @ (1, 0, 0), (0, 1, 0)))
        True
    """
    (sx, sy, sz), (cx, cy, cz) = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_field(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> np.ndarray:
    """Gaussian random field of unit variance, float32 of ``shape``; ``sigma`` in voxels sets its grain."""
    white = rng.standard_normal(tuple(shape), dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    return smooth / smooth.std()


class BodyFrame:
    """Body coordinates of every voxel of one patient.

    Args:
        rng: source of the patient's pose and warp.
        shape: voxels per axis.
        spacing_mm: voxel size per axis.

    Shape:
        coords: ``(3, *shape)`` float32, mm.
    """

    warp_mm = 4.5

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: Vector) -> None:
        self.shape = shape
        self._spacing = np.asarray(spacing_mm)
        self._scale = rng.uniform(0.95, 1.05, 3)
        self._axes = rotation(rng.normal(0.0, (2.0, 2.0, 4.0)))
        self._shift = rng.uniform((-6.0, -3.0, -8.0), (6.0, 3.0, 8.0))
        self._middle = (np.asarray(shape) - 1) / 2
        steps = [
            (np.arange(n) - m) * s - t
            for n, m, s, t in zip(shape, self._middle, self._spacing, self._shift, strict=True)
        ]
        to_body = (self._axes.T / self._scale[:, None]).astype(np.float32)
        world = np.stack(np.meshgrid(*steps, indexing="ij")).astype(np.float32)
        self.coords = np.tensordot(to_body, world, axes=1) + self._warp(rng)

    def _warp(self, rng: np.random.Generator) -> np.ndarray:
        """Displacement ``(3, *shape)`` in mm: cubic splines through a coarse lattice, about 7 cm apart."""
        coarse = rng.normal(0.0, self.warp_mm, (3, 6, 5, 5))
        factors = [n / c for n, c in zip(self.shape, coarse.shape[1:], strict=True)]
        fields = [np.asarray(ndimage.zoom(c, factors, order=3, mode="nearest")) for c in coarse]
        return np.stack(fields).astype(np.float32)

    def box(self, blob: Blob) -> tuple[slice, ...]:
        """The part of the grid a blob can reach, with a margin for the warp and the soft edge."""
        center = (self._axes @ (np.asarray(blob.center) * self._scale) + self._shift) / self._spacing
        reach = (max(blob.radii) * 1.25 + 4 * self.warp_mm) / self._spacing
        low = np.maximum(np.floor(self._middle + center - reach), 0).astype(int)
        high = np.maximum(np.ceil(self._middle + center + reach) + 1, 0).astype(int)
        return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))

    def depth(self, blob: Blob, box: tuple[slice, ...]) -> np.ndarray:
        """Approximate distance in mm of each voxel of ``box`` to the surface, positive inside the blob."""
        at = self.coords[(slice(None), *box)] - np.asarray(blob.center, np.float32)[:, None, None, None]
        radii = np.asarray(blob.radii, np.float32)[:, None, None, None]
        unit = np.abs(np.tensordot(blob.axes.T.astype(np.float32), at, axes=1)) / radii
        level = (
            np.sqrt((unit**2).sum(0)) if blob.power == 2.0 else (unit**blob.power).sum(0) ** (1 / blob.power)
        )
        slope = np.sqrt(((unit / radii) ** 2).sum(0))
        # First-order distance level * (1 - level) / slope; at the very center both go to zero.
        return np.where(level < 1e-3, np.float32(min(blob.radii)), level * (1 - level) / (slope + 1e-9))

    def union(self, template: Template) -> tuple[tuple[slice, ...], np.ndarray]:
        """Box and depth of an organ: deepest of its parts, outside everything carved out."""
        boxes = [self.box(part) for part in template.parts]
        box = tuple(slice(min(b[i].start for b in boxes), max(b[i].stop for b in boxes)) for i in range(3))
        depth = np.max([self.depth(part, box) for part in template.parts], axis=0)
        for hole in template.carved:
            depth = np.minimum(depth, -self.depth(hole, box))
        return box, depth


def vary(
    rng: np.random.Generator, template: Template, shift_mm: float, scale: float, tilt_deg: float
) -> Template:
    """One patient's version of an average organ: moved, resized and turned as a whole.

    Args:
        rng: source of the variation.
        template: the average organ.
        shift_mm: standard deviation of the position.
        scale: largest relative change of each semi-axis.
        tilt_deg: standard deviation of the rotation about each axis.
    """
    pivot = np.mean([np.asarray(part.center) for part in template.parts], axis=0)
    turn = rotation(np.clip(rng.normal(0.0, tilt_deg, 3), -2 * tilt_deg, 2 * tilt_deg))
    size = rng.uniform(1 - scale, 1 + scale, 3)
    shift = np.clip(rng.normal(0.0, shift_mm, 3), -2 * shift_mm, 2 * shift_mm)

    def moved(blob: Blob) -> Blob:
        center = pivot + turn @ ((np.asarray(blob.center) - pivot) * size) + shift
        return replace(blob, center=center, radii=np.asarray(blob.radii) * size, axes=turn @ blob.axes)

    return Template(tuple(map(moved, template.parts)), tuple(map(moved, template.carved)))


class Canvas:
    """HU and labels of one patient, painted back to front.

    A blob is laid over what is there with a soft edge one voxel wide, which is the partial volume a scanner
    would record; its label takes the voxels it covers by half or more.
    """

    def __init__(self, frame: BodyFrame, voxel_mm: float) -> None:
        self.frame = frame
        self.hu = np.full(frame.shape, AIR_HU, np.float32)
        self.label = np.zeros(frame.shape, np.uint8)
        self._voxel_mm = np.float32(voxel_mm)

    def paint(
        self, box: tuple[slice, ...], depth: np.ndarray, hu: float | np.ndarray, class_id: int = 0
    ) -> None:
        """Lay tissue of ``hu`` over ``box`` wherever ``depth`` (mm) is positive."""
        cover = np.clip(0.5 + depth / self._voxel_mm, 0, 1)
        there = self.hu[box]
        there += cover * (np.asarray(hu, np.float32) - there)
        if class_id:
            self.label[box][cover >= 0.5] = class_id

    def blob(self, blob: Blob, hu: float | np.ndarray, within: np.ndarray | None = None) -> None:
        """Paint one unlabeled blob, kept inside the region where ``within`` (mm, whole grid) is positive."""
        box = self.frame.box(blob)
        depth = self.frame.depth(blob, box)
        self.paint(box, depth if within is None else np.minimum(depth, within[box]), hu)


def body_wall(canvas: Canvas, rng: np.random.Generator, texture: np.ndarray) -> np.ndarray:
    """Skin, fat, muscle and ribs around the abdominal cavity, and the fat that fills it.

    Args:
        canvas: painted in place.
        rng: source of the habitus.
        texture: unit-variance field of the canvas's shape.

    Returns:
        Depth below the cavity's surface in mm, of the canvas's shape.
    """
    frame, whole = canvas.frame, (slice(None),) * 3
    fat_mm, muscle_mm = rng.uniform(7, 16), rng.uniform(8, 12)
    wide, deep, power = rng.uniform(150, 158), rng.uniform(95, 99), rng.uniform(2.2, 2.5)

    def shell(inset: float) -> np.ndarray:
        return frame.depth(Blob((0, 0, 0), (wide - inset, deep - inset, _ENDLESS), power), whole)

    cavity = shell(fat_mm + muscle_mm)
    canvas.paint(whole, shell(0), 10.0)  # skin: thinner than a voxel, it only shows as partial volume
    canvas.paint(whole, shell(3), FAT_HU + 6 * texture)
    canvas.paint(whole, shell(fat_mm), 55 + 6 * texture)
    filler = rng.uniform(-85, -45)  # fat alone in some patients, fat and small bowel in others
    canvas.paint(whole, cavity, filler + 16 * texture)
    x, y, z = frame.coords
    along = (z + 0.45 * y + 0.1 * np.abs(x)) * np.float32(2 * np.pi / rng.uniform(30, 36))
    rib = np.minimum(5 - np.abs(cavity + muscle_mm / 2), 7 * np.cos(along) - 1)
    canvas.paint(whole, np.minimum(rib, z + 25), 260 + 40 * texture)
    return cavity


def distractors(canvas: Canvas, rng: np.random.Generator, hu: dict[str, float], cavity: np.ndarray) -> None:
    """Unlabeled anatomy: lungs, muscles, bowel, pancreas, vena cava; much of it as bright as an organ.

    Args:
        canvas: painted in place, before the organs, which therefore stay whole.
        rng: source of number, place and tissue.
        hu: mean intensity per organ.
        cavity: depth below the cavity's surface in mm.
    """
    for side in (-1, 1):
        canvas.blob(Blob((82 * side, -14, 140), (56, 72, 66)), rng.uniform(-860, -780), cavity - 3)
        canvas.blob(Blob((34 * side, -58, -70), (19, 19, 78)), 58 + 5 * rng.standard_normal())
        canvas.blob(Blob((32 * side, -82, 0), (26, 15, _ENDLESS)), 56 + 5 * rng.standard_normal())
    for _ in range(int(rng.integers(10, 15))):
        center = rng.uniform((-100, -10, -120), (100, 66, -18))
        radii = rng.uniform(12, 24, 3)
        tissue = hu[PAINT_ORDER[int(rng.integers(len(PAINT_ORDER)))]] + rng.normal(0, 8)
        canvas.blob(Blob(center, radii, axes=rotation(rng.uniform(-40, 40, 3))), tissue, cavity - 3)
        if rng.random() < 0.25:
            canvas.blob(Blob(center + np.array((0, 5, 0)), radii * rng.uniform(0.4, 0.6)), -700.0, cavity - 3)
    canvas.blob(
        Blob((-8, 4, 2), (52, 14, 13), axes=rotation(rng.normal(0, 8, 3))), hu["liver"] - rng.uniform(5, 20)
    )
    canvas.blob(Blob((19, -34, 0), (13, 11, _ENDLESS)), hu["aorta"] + rng.normal(0, 8))


def spine(canvas: Canvas, rng: np.random.Generator, texture: np.ndarray) -> None:
    """Vertebrae, discs, spinous processes and the canal between them.

    Args:
        canvas: painted in place.
        rng: source of bone density and disc spacing.
        texture: unit-variance field of the canvas's shape.
    """
    bone = rng.uniform(230, 330)
    z = canvas.frame.coords[2] + rng.uniform(0, 36)
    disc = np.cos(z * np.float32(2 * np.pi / rng.uniform(34, 40))) > 0.86
    body = np.where(disc, np.float32(95), bone + 70 * texture)
    for blob, tissue in (
        (Blob((0, -64, 0), (21, 17, _ENDLESS), 2.4), body),
        (Blob((0, -88, 0), (8, 13, _ENDLESS)), bone * 1.2 + 60 * texture),
        (Blob((0, -80, 0), (7, 6, _ENDLESS)), np.full_like(texture, 35)),
    ):
        box = canvas.frame.box(blob)
        canvas.paint(box, canvas.frame.depth(blob, box), tissue[box])


def organ_intensities(rng: np.random.Generator) -> dict[str, float]:
    """Mean HU per organ of one patient.

    The contrast phase moves all organs together by more than neighbors differ, so an intensity names no organ
    by itself; within a patient touching organs stay 10 to 40 HU apart, so the boundary can be seen.
    """
    liver = rng.uniform(78, 116)
    spleen = liver + rng.uniform(11, 18)
    kidney = spleen + rng.uniform(12, 21)
    return {
        "liver": liver,
        "spleen": spleen,
        "right_kidney": kidney + rng.uniform(-2, 2),
        "left_kidney": kidney + rng.uniform(-2, 2),
        "aorta": liver + rng.uniform(15, 45),
        "stomach": liver - rng.uniform(12, 20),
        "gallbladder": liver - rng.uniform(24, 38),
    }


def organs(
    canvas: Canvas,
    rng: np.random.Generator,
    hu: dict[str, float],
    textures: Sequence[np.ndarray],
    cavity: np.ndarray,
) -> None:
    """Paint the labeled organs of one patient.

    Args:
        canvas: painted in place.
        rng: source of shape, pose and texture.
        hu: mean intensity per organ.
        textures: a coarse and a fine unit-variance field of the canvas's shape.
        cavity: depth below the cavity's surface in mm.
    """
    coarse, fine = textures
    for name in PAINT_ORDER:
        loose = {"aorta": (2.5, 0.12, 1.5), "gallbladder": (4.0, 0.15, 12.0)}.get(name, (5.0, 0.12, 6.0))
        box, depth = canvas.frame.union(vary(rng, TEMPLATES[name], *loose))
        # tanh flattens the field into lobules with soft borders; its sign makes organs differ in phase.
        lobules = np.tanh(2 * coarse[box]) * rng.choice((-1.0, 1.0))
        tissue = hu[name] + rng.uniform(2, 4) * lobules + rng.uniform(2, 4) * fine[box]
        if name.endswith("kidney"):
            tissue = tissue + np.where(depth < 9, 4, -6)  # cortex enhances before medulla
        depth = np.minimum(depth, cavity[box] - 2)
        if name == "stomach":
            tissue = gas_above(tissue, canvas.frame.coords[(1, *box)], depth, rng)
        canvas.paint(box, depth, tissue.astype(np.float32), CLASS_NAMES.index(name))


def gas_above(
    tissue: np.ndarray, height: np.ndarray, depth: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Some stomachs hold a little gas under the anterior wall: supine, so the level is horizontal.

    Args:
        tissue: HU of the contents, any shape.
        height: anterior coordinate in mm, same shape.
        depth: below the stomach's surface in mm, same shape.
        rng: decides whether and how much.
    """
    share = rng.uniform(-0.06, 0.06)
    lumen = depth > 5
    if share <= 0 or not lumen.any():
        return tissue
    return np.where(lumen & (height > np.quantile(height[lumen], 1 - share)), -600.0, tissue)
