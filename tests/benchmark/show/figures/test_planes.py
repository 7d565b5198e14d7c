"""Which way round a slice is shown, against world coordinates and against nibabel."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.show.figures.planes import most_changed_voxel, obliquity_degrees, planes

SHAPE, SPACING = (4, 5, 6), (1.0, 2.0, 3.0)
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
POSITIVE = "RAS"


def axis_aligned():
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.zeros((4, 4))
        for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
            affine[world, axis] = sign * SPACING[axis]
        affine[:, 3] = (-7.0, 3.0, 11.0, 1.0)
        yield affine


def rotated(angles_degrees) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*np.radians(angles_degrees)) @ np.diag((-1.0, 1.0, -2.0))
    return affine


def world(affine: np.ndarray) -> np.ndarray:
    """World coordinates of every voxel, (3, X, Y, Z)."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    return np.einsum("ij,jxyz->ixyz", affine[:3, :3], index) + affine[:3, 3, None, None, None]


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
def test_letters_say_where_the_world_lies(convention):
    for affine in axis_aligned():
        position = world(affine)
        for plane, across, down in zip(planes(affine, convention), (0, 0, 1), (1, 2, 2), strict=True):
            horizontal, vertical = plane.cut(position[across], 1), plane.cut(position[down], 1)
            assert plane.left == (
                POSITIVE[across] if horizontal[0, 0] > horizontal[0, -1] else OPPOSITE[POSITIVE[across]]
            )
            assert plane.top == POSITIVE[down]
            assert vertical[0, 0] > vertical[-1, 0]
            assert {plane.left, plane.right} == {POSITIVE[across], OPPOSITE[POSITIVE[across]]}
            # Nothing changes along the other side of the slice.
            assert (horizontal == horizontal[:1]).all()
            assert (vertical == vertical[:, :1]).all()
        axial, coronal, sagittal = planes(affine, convention)
        assert axial.left == coronal.left == ("R" if convention == "radiological" else "L")
        assert sagittal.left == "A"


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -15, 10), (100, 5, -80), (170, 30, 20)])
def test_oblique_letters_are_nibabels(angles):
    affine = rotated(angles)
    codes = nib.aff2axcodes(affine)
    for plane in planes(affine):
        assert codes[plane.across] == (plane.left if plane.flip_across else plane.right)
        assert codes[plane.down] == (plane.top if plane.flip_down else plane.bottom)
        assert {plane.through, plane.across, plane.down} == {0, 1, 2}
    assert obliquity_degrees(affine) == pytest.approx(np.degrees(nib.affines.obliquity(affine)).max())


def test_a_cut_takes_the_stated_voxel_and_has_its_size():
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for affine in axis_aligned():
        for plane in planes(affine):
            image = plane.cut(volume, 2)
            assert sorted(image.ravel()) == sorted(np.take(volume, 2, axis=plane.through).ravel())
            width, height = plane.size_mm(SHAPE, SPACING)
            assert (width, height) == (
                image.shape[1] * SPACING[plane.across],
                image.shape[0] * SPACING[plane.down],
            )


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="convention among radiological, neurological"):
        planes(np.eye(4), "artistic")
    with pytest.raises(ValueError, match="three independent axes"):
        planes(np.diag([1.0, 1.0, 0.0, 1.0]))


def test_the_voxel_of_most_change_is_that_of_a_search():
    rng = np.random.default_rng(1)
    for _ in range(5):
        before = rng.integers(0, 3, SHAPE)
        after = np.where(rng.random(SHAPE) < 0.1, 2, before)
        changed = before != after
        best, most = None, -1
        for x, y, z in np.argwhere(changed):
            total = changed[x].sum() + changed[:, y].sum() + changed[:, :, z].sum()
            if total > most:
                best, most = (x, y, z), total
        assert most_changed_voxel(before, after, before)[0] == best


def test_without_change_the_reference_is_shown_or_the_center():
    empty = np.zeros(SHAPE, int)
    reference = empty.copy()
    reference[3, 1, 5] = 2
    voxel, reason = most_changed_voxel(empty, empty, reference)
    assert voxel == (3, 1, 5)
    assert "no voxel changes" in reason
    assert most_changed_voxel(empty, empty, empty)[0] == (2, 2, 3)
