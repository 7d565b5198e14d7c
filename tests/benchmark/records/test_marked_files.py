"""Marked NIfTI files: only voxels change, and the key gives back every uncompressed byte."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension

from robustvox.attacks import Key
from robustvox.benchmark.records.marked_files import (
    attach,
    case_name,
    changeable,
    detach,
    embed,
    only_turned,
    read_stored,
    seal_file,
    unlock_file,
)  # fmt: skip
from robustvox.benchmark.records.seal import SealError, Terms
from robustvox.datasets import CaseError, ChannelWindows, IntensityWindow, Volume
from robustvox.datasets.nifti import RawCase, read_file
from robustvox.datasets.prepare import Preparation

KEY = Key(b"the owner's key, of more than sixteen bytes")
SALT = bytes(16)
SCALINGS = [(1.0, 0.0), (0.5, -1024.0), (-2.0, 7.0), (1 / 3, 0.1)]


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def write(path: Path, array: np.ndarray, *, scaling=(1.0, 0.0), version=1, extension=b"") -> Path:
    """A file whose voxels are exactly the array, in its byte order."""
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    order = "<" if array.dtype.byteorder in "<=|" else ">"
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = kind(array, np.diag([1.0, 1.0, 2.5, 1.0]), header)
    if extension:
        image.header.extensions.append(Nifti1Extension(6, extension))
    image.header["descrip"] = b"kept"
    image.header.set_slope_inter(*scaling)
    whole = image.to_bytes() if scaling == (1.0, 0.0) else None
    if whole is None:
        # nibabel would divide by the slope; the header is written and the voxels are put behind it.
        bare = kind(array, image.affine, image.header)
        bare.header.set_slope_inter(1.0, 0.0)
        whole = bytearray(bare.to_bytes())
        at = {1: (112, "ff"), 2: (176, "dd")}[version]
        struct.pack_into(f"{order}{at[1]}", whole, at[0], *scaling)
    path.write_bytes(gzip.compress(bytes(whole)) if path.name.endswith(".gz") else bytes(whole))
    return path


def _orders() -> Iterator[tuple[str, ...]]:
    """The 48 ways in which three axes can be stored."""
    for order in permutations(("RL", "AP", "SI")):
        yield from product(*order)


def _oriented(image, axes: str):
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    return image.as_reoriented(change)


def volume_of(path: Path, low=-50.0, high=150.0) -> Volume:
    image = np.asarray(nib.load(path).dataobj, np.float64)
    image = image[None] if image.ndim == 3 else np.moveaxis(image, -1, 0)
    window = IntensityWindow(low, high)
    channels = window if image.shape[0] == 1 else ChannelWindows((window,) * image.shape[0])
    return Volume(
        case_name(path), window.apply(image), np.zeros(image.shape[1:]), (1.0, 1.0, 2.5), np.eye(4), channels
    )


def mark(volume: Volume, eps: float, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    change = np.where(rng.random(volume.image.shape) < 0.5, -eps, eps)
    return np.clip(volume.image + change, 0, 1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["<i2", ">i2", "u1", "i1", "<u2", "<i4", "<f4", ">f4", "<f8", ">f8"]),
    shape=st.lists(st.sampled_from([1, 2, 5, 8]), min_size=3, max_size=3),
    channels=st.sampled_from([0, 1, 2]),
    scaling=st.sampled_from(SCALINGS),
    constant=st.booleans(),
    version=st.sampled_from([1, 2]),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    inside=st.booleans(),
    seed=st.integers(0, 99),
)
def test_marking_and_unlocking_keeps_every_byte(
    tmp_path_factory, dtype, shape, channels, scaling, constant, version, suffix, inside, seed
):
    folder = tmp_path_factory.mktemp("files")
    shape = (*shape, channels) if channels else tuple(shape)
    rng = np.random.default_rng(seed)
    values = np.full(shape, 30.0) if constant else rng.uniform(-120, 120, shape)
    array = (values.clip(0) if np.dtype(dtype).kind == "u" else values).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        # A volume whose every voxel is the type's largest or smallest value may have nowhere to go.
        limits = np.iinfo(dtype)
        assume(((array > limits.min) & (array < limits.max)).any())
    path = write(folder / f"p01{suffix}", array, scaling=scaling, version=version)
    before = path.read_bytes()
    stored = read_stored(path)
    assert (stored.dtype.str, stored.shape) == (np.dtype(dtype).str, shape)
    assert stored.head + stored.data + stored.tail == content(path)
    np.testing.assert_array_equal(stored.voxels, array)
    center, reach = float(stored.intensities.mean()), 1000.0 * max(abs(scaling[0]), 1.0)
    volume, eps = volume_of(path, center - reach, center + reach), 0.06
    marked = embed(stored, volume, mark(volume, eps, seed))
    # Never further than eps of the window, in the file's own intensities; nothing outside the window moves.
    moved = np.abs(marked.intensities - stored.intensities)
    assert 0 < moved.max() <= eps * 2 * reach * (1 + 1e-6)
    seal = seal_file(stored, marked, key=KEY, case="p01", terms=Terms(salt=SALT))
    whole = attach(marked, seal) if inside else marked
    whole.write(folder / f"marked{suffix}")
    again, found = detach(read_stored(folder / f"marked{suffix}"))
    assert found == (seal if inside else None)
    assert again.head == stored.head
    image = nib.load(folder / f"marked{suffix}")
    assert image.header.get_data_dtype() == np.dtype(dtype)
    assert image.header["descrip"] == b"kept"
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()), marked.voxels)
    original = unlock_file(again, seal, key=KEY)
    original.write(folder / f"back{suffix}")
    assert content(folder / f"back{suffix}") == content(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("axes", ["".join(p) for p in _orders()])
def test_a_file_of_any_axes_gets_the_mark_of_its_turned_self(tmp_path, axes):
    """The mark is made along RAS; nibabel turns the RAS file and its marked self as an independent witness."""
    rng = np.random.default_rng(3)
    affine = nib.affines.from_matvec(np.diag([1.0, 1.5, 2.5]), [-7.0, 11.0, 3.0])
    upright = nib.Nifti1Image(rng.integers(-80, 180, (3, 4, 5)).astype("<i2"), affine)
    nib.save(upright, tmp_path / "ras.nii")
    nib.save(_oriented(upright, axes), tmp_path / "turned.nii")
    marks, marked = None, {}
    for name in ("ras", "turned"):
        stored, file = read_stored(tmp_path / f"{name}.nii"), read_file(tmp_path / f"{name}.nii", name)
        raw = RawCase(
            name, file.array.astype(np.float32)[None], np.zeros(file.array.shape, np.int16), file.grid
        )
        volume = Preparation(window=IntensityWindow(-50.0, 150.0))(raw)
        assert only_turned(volume, raw.image, file.grid.affine)
        np.testing.assert_array_equal(
            changeable(stored, volume),
            np.isclose(volume.original, volume.window.invert(volume.image), atol=1e-3),
        )
        marks = mark(volume, 0.1) if marks is None else marks
        marked[name] = embed(stored, volume, marks)
        marked[name].write(tmp_path / f"{name}_marked.nii")
        assert (marked[name].head, marked[name].tail) == (stored.head, stored.tail)
    expected = _oriented(nib.load(tmp_path / "ras_marked.nii"), axes)
    found = nib.load(tmp_path / "turned_marked.nii")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_allclose(found.affine, expected.affine)
    assert (np.asarray(found.dataobj) != np.asarray(nib.load(tmp_path / "turned.nii").dataobj)).mean() > 0.5


@pytest.mark.parametrize(
    "step",
    [
        {"spacing_mm": (2.0, 1.5, 2.5)},
        {"crop_foreground": True},
        {"pad_to": (8, 8, 8)},
        {"fit_to": (2, 4, 6)},
    ],
)
def test_more_than_a_turn_is_told(tmp_path, step):
    array = np.zeros((4, 5, 6), "<i2")
    array[1:, 1:, 1:] = np.arange(60).reshape(3, 4, 5) + 1
    path = write(tmp_path / "a.nii", array)
    file = read_file(path, "a")
    raw = RawCase("a", file.array.astype(np.float32)[None], np.zeros(array.shape, np.int16), file.grid)
    plain, more = (
        Preparation(window=IntensityWindow(0.0, 61.0)),
        Preparation(window=IntensityWindow(0.0, 61.0), **step),
    )
    assert only_turned(plain(raw), raw.image, file.grid.affine)
    assert not only_turned(more(raw), raw.image, file.grid.affine)


def test_voxels_outside_the_window_are_left_alone(tmp_path):
    array = np.linspace(-500, 500, 120).reshape(4, 5, 6).astype("<i2")
    path = write(tmp_path / "a.nii", array)
    stored, volume = read_stored(path), volume_of(path)
    free = changeable(stored, volume)
    np.testing.assert_array_equal(free[0], (array >= -50) & (array <= 150))
    marked = embed(stored, volume, 1 - volume.image)
    changed = marked.voxels != array
    assert not changed[~free[0]].any()
    assert changed[free[0]].mean() > 0.8
    assert marked.voxels[free[0]].min() >= -50
    assert marked.voxels[free[0]].max() <= 150


def test_a_file_too_coarse_for_the_mark_is_refused(tmp_path):
    path = write(tmp_path / "a.nii", np.arange(60, dtype="u1").reshape(3, 4, 5))
    volume = volume_of(path, 0.0, 60.0)
    with pytest.raises(
        CaseError, match="grey values finer than the mark, found steps of 1 in a window of 60"
    ):
        embed(read_stored(path), volume, mark(volume, 0.01))


def test_extensions_and_bytes_between_are_kept(tmp_path):
    array = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype("<i2")
    path = write(tmp_path / "a.nii", array, extension=b"somebody's own note")
    path.write_bytes(path.read_bytes() + b"trailing bytes")
    stored, volume = read_stored(path), volume_of(path)
    assert stored.tail == b"trailing bytes"
    assert b"somebody's own note" in stored.head
    marked = embed(stored, volume, mark(volume, 0.1))
    seal = seal_file(stored, marked, key=KEY, case="a", terms=Terms(salt=SALT))
    whole = attach(marked, seal)
    assert len(nib.Nifti1Image.from_bytes(whole.head + whole.data).header.extensions) == 2
    again, found = detach(whole)
    assert unlock_file(again, found, key=KEY).digest == stored.digest


def test_a_header_with_loose_bytes_takes_no_extension(tmp_path):
    array = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype("<i2")
    raw = bytearray(write(tmp_path / "a.nii", array).read_bytes())
    struct.pack_into("<f", raw, 108, 400.0)
    (tmp_path / "a.nii").write_bytes(bytes(raw[:352]) + b"x" * 48 + bytes(raw[352:]))
    stored = read_stored(tmp_path / "a.nii")
    np.testing.assert_array_equal(stored.voxels, array)
    with pytest.raises(SealError, match="use --seal sidecar"):
        attach(stored, b"RVXSEAL1")


def test_what_changed_after_marking_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "a.nii", rng.integers(0, 100, (4, 5, 6)).astype("<i2"))
    stored, volume = read_stored(path), volume_of(path)
    marked = embed(stored, volume, mark(volume, 0.1))
    seal = seal_file(stored, marked, key=KEY, case="a", terms=Terms(salt=SALT))
    marked.write(path)
    image = nib.load(path)
    # The same voxels, stored again: another dtype, another header, another affine.
    for number, other in enumerate(
        (
            nib.Nifti1Image(np.asarray(image.dataobj).astype("<f4"), image.affine),
            nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1.0, 1.0, 2.6, 1.0]), image.header),
            nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine, image.header),
        )
    ):
        nib.save(other, tmp_path / f"{number}.nii")
        with pytest.raises(SealError, match="changed or stored again"):
            unlock_file(read_stored(tmp_path / f"{number}.nii"), seal, key=KEY)
    assert unlock_file(read_stored(path), seal, key=KEY).digest == stored.digest


def test_files_that_are_no_volumes_are_refused(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), "<i2"), np.eye(4)), tmp_path / "pair.img")
    with pytest.raises(CaseError, match="holds header and voxels"):
        read_stored(tmp_path / "pair.img")
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), "<i8"), np.eye(4), dtype="<i8"), tmp_path / "long.nii")
    with pytest.raises(CaseError, match="real voxels of at most 64 bits"):
        read_stored(tmp_path / "long.nii")
    (tmp_path / "cut.nii").write_bytes(b"\x5c\1\0\0" + bytes(100))
    with pytest.raises(CaseError, match="a complete NIfTI file"):
        read_stored(tmp_path / "cut.nii")
