"""Units and geometry have one source: the affine in force, in every layout, whatever the axes of the file."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.benchmark import score
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.datasets import CaseError, open_dataset
from robustvox.datasets.geometry import axes_of, check_affine, spacing_of, turn

from .layouts import LAYOUTS, Stored, example, put, write

ORDERS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]


def stored_as(case: Stored, axes: str) -> Stored:
    """The same patient in a file with other axes."""
    turned = [turn(array, case.affine, axes) for array in (*case.channels, case.label)]
    *channels, label = [array for array, _ in turned]
    return Stored(channels, label, turned[0][1], case.unit)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_axis_order_and_flip_change_no_voxel(tmp_path, layout):
    assert len(set(ORDERS)) == 48
    affine = np.diag([0.75, 1.25, 2.5, 1.0])
    affine[:3, 3] = (-30.0, 12.5, 400.0)
    plain = example(affine=affine)
    path = write(layout, tmp_path, {axes: stored_as(plain, axes) for axes in ORDERS})
    data = open_dataset(path)
    volumes = [data.load(axes) for axes in ORDERS]
    assert [v.stored.axes for v in volumes] == ORDERS
    assert len({data_fingerprint(v) for v in volumes}) == 1
    for volume in volumes:
        assert axes_of(volume.affine) == "RAS"
        assert volume.spacing_mm == (0.75, 1.25, 2.5)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(volume.label, plain.label)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("unit", "factor"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1.0), ("unknown", 1.0)]
)
def test_units_of_the_header_become_millimetres(tmp_path, layout, unit, factor):
    affine = np.diag([-0.5, 0.5, 2.0, 1.0]) / factor
    affine[:3, 3] = np.array([3.0, -7.0, 11.0]) / factor
    volume = open_dataset(write(layout, tmp_path, {"a": Stored(*_arrays(), affine, unit)})).load("a")
    assert volume.spacing_mm == (0.5, 0.5, 2.0)
    assert volume.stored.spacing_mm == (0.5, 0.5, 2.0)
    center = volume.affine @ [11, 0, 0, 1]
    np.testing.assert_allclose(center[:3], (3.0, -7.0, 11.0), rtol=1e-6)


def _arrays():
    case = example()
    return case.channels, case.label


def header(case: Stored, **changes):
    """A file whose header is changed after it was made from the affine."""
    image = nib.Nifti1Image(case.channels[0], case.affine)
    for name, value in changes.items():
        if name in ("sform", "qform"):
            getattr(image, f"set_{name}")(*value)
        else:
            image.header[name] = value
    return image


def other_pixdim(image):
    image.header["pixdim"][1:4] = (3.0, 3.0, 3.0)


def turned_qform(image):
    image.set_qform(np.diag([-1.0, 1.0, 2.0, 1.0]), 1)


def other_unit(image):
    image.header["xyzt_units"] = 5


def sheared(image):
    affine = image.affine.copy()
    affine[0, 1] = 0.1
    image.set_sform(affine, 2)


def flat(image):
    affine = image.affine.copy()
    affine[:3, 2] = affine[:3, 1] * 2.0
    image.set_sform(affine, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_pixdim,
            r"one voxel spacing in the header, found 3 x 3 x 3 mm in pixdim and 1 x 1 x 2 mm in the sform",
        ),
        (turned_qform, "one orientation in the header, found RAS in the sform and LAS in the qform"),
        (other_unit, "a unit of length among m, mm and um, found code 5"),
        (sheared, r"axes at right angles \(to 0.5 degrees\), found 84.3 degrees between axes 0 and 1"),
        (flat, "spans three dimensions"),
    ],
)
def test_a_header_that_says_two_things_is_refused_with_both(tmp_path, layout, change, message):
    path = write(layout, tmp_path, {"a": example(), "b": example(1)})
    for file in tmp_path.rglob("a*.nii.gz"):
        image = nib.load(file)
        fresh = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
        change(fresh)
        # nibabel writes pixdim anew from the affine it holds, so the header goes in by hand.
        raw = fresh.header.binaryblock
        plain = file.with_suffix("")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), plain)
        content = bytearray(plain.read_bytes())
        for first, last in ((76, 108), (123, 124), (252, 328)):
            content[first:last] = raw[first:last]
        plain.unlink()
        file.write_bytes(__import__("gzip").compress(bytes(content)))
    data = open_dataset(path)
    with pytest.raises(CaseError, match=message) as caught:
        data.load("a")
    assert str(caught.value).startswith("case a: expected ")
    data.load("b")


def test_voxels_of_nanometres_are_not_singular(tmp_path):
    affine = np.diag([5e-5, 5e-5, 2e-4, 1.0])
    volume = open_dataset(write("msd", tmp_path, {"a": example(affine=affine)})).load("a")
    assert volume.spacing_mm == (5e-5, 5e-5, 2e-4)


def test_two_grids_of_nanometres_must_agree_to_a_share_of_a_voxel():
    fine = np.diag([5e-5, 5e-5, 5e-5, 1.0])
    check_affine(fine, fine * (1 + 1e-8), "a")
    moved = fine.copy()
    moved[0, 3] = 5e-5
    with pytest.raises(CaseError, match="one affine"):
        check_affine(fine, moved, "a")


def test_turning_there_and_back_is_the_identity():
    case = example()
    rotated = case.affine.copy()
    rotated[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.3, 0.25) @ rotated[:3, :3]
    for affine in (case.affine, rotated):
        for axes in ORDERS:
            there, its = turn(case.label[None], affine, axes)
            assert axes_of(its) == axes
            back, again = turn(there, its, "RAS")
            np.testing.assert_array_equal(back[0], case.label)
            np.testing.assert_allclose(again, affine, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    sides=st.tuples(*[st.floats(0.3, 4.0)] * 3),
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    unit=st.sampled_from([("mm", 1.0), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1.0)]),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    layout=st.sampled_from(["msd", "nnunet_v2", "csv"]),
)
def test_random_affines_give_spacing_volume_and_distance(
    tmp_path_factory, order, sides, angles, unit, origin, layout
):
    """Two boxes of known size in the world: volume in millilitres and HD95 to 1 %, whatever the file's axes."""
    name, factor = unit
    label = np.zeros((24, 22, 20), np.uint8)
    label[4:10, 5:11, 6:12] = 1
    moved = np.roll(label, 6, axis=0)
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ np.diag(sides)
    affine[:3, 3] = origin
    affine[:3] /= factor
    reference, its = turn(label[None], affine, order)
    other, _ = turn(moved[None], affine, order)
    image = reference[0] * 50.0 + np.arange(reference.size).reshape(reference.shape[1:]) % 7
    root = tmp_path_factory.mktemp("affine")
    first = Stored((image.astype(np.float32),), reference[0], its, name)
    second = Stored((image.astype(np.float32),), other[0], its, name)
    data = open_dataset(write(layout, root, {"a": first, "b": second}, labels=("background", "box")))
    a, b = data.load("a"), data.load("b")
    wanted = sorted(sides)
    np.testing.assert_allclose(sorted(a.spacing_mm), wanted, rtol=0.01)
    np.testing.assert_allclose(spacing_of(a.affine), a.spacing_mm, rtol=1e-6)
    millilitres = np.count_nonzero(a.label) * np.prod(a.spacing_mm) / 1000
    assert millilitres == pytest.approx(6**3 * np.prod(sides) / 1000, rel=0.01)
    table = score(b.label, a.label, num_classes=2, spacing_mm=a.spacing_mm)
    # The far face of the moved box lies six voxels of the first axis away, and more than 5 % of the surface with it.
    assert table.hd95_mm[0] == pytest.approx(6 * sides[0], rel=0.01)


def test_a_file_of_an_axis_less_than_three_or_no_grid(tmp_path):
    write("msd", tmp_path, {"a": example(), "b": example(1)})
    put(tmp_path / "imagesTr/a.nii.gz", np.zeros((4, 4), np.float32), np.eye(4))
    with pytest.raises(CaseError, match="3-D image"):
        open_dataset(tmp_path).load("a")


def test_a_header_in_a_file_of_its_own_has_a_unit_too(tmp_path):
    case, rows = example(), "id,image,label\na,a.img,b.img\n"
    affine = np.diag([-500.0, 500.0, 2000.0, 1.0])
    for name, array in (("a", case.channels[0]), ("b", case.label)):
        image = nib.Nifti1Pair(array, affine)
        image.header.set_xyzt_units("micron")
        nib.save(image, tmp_path / f"{name}.img")
    (tmp_path / "cohort.csv").write_text(rows)
    volume = open_dataset(tmp_path / "cohort.csv").load("a")
    assert volume.spacing_mm == (0.5, 0.5, 2.0)
    assert (volume.stored.unit, volume.stored.axes) == ("um", "LAS")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIR"])
def test_a_label_with_other_axes_than_its_image_is_turned_to_it(tmp_path, layout, axes):
    affine = np.diag([0.75, 1.25, 2.5, 1.0])
    affine[:3, 3] = (-30.0, 12.5, 400.0)
    plain = example(affine=affine)
    path = write(layout, tmp_path, {"a": plain})
    (file,) = (tmp_path / "labelsTr").glob("a*.nii.gz")
    label, turned = turn(plain.label, affine, axes)
    put(file, label, turned)
    np.testing.assert_array_equal(open_dataset(path).load("a").label, plain.label)
    # Elsewhere in the world it is another label, whatever its axes are.
    turned[0, 3] += 1.0
    put(file, label, turned)
    with pytest.raises(CaseError, match="one affine for image and label"):
        open_dataset(path).load("a")


def test_channels_with_other_axes_than_the_first_are_turned_to_it(tmp_path):
    plain = example(affine=np.diag([0.75, 1.25, 2.5, 1.0]))
    both = Stored((plain.channels[0], plain.channels[0] * 3), plain.label, plain.affine)
    path = write("nnunet_v2", tmp_path, {"a": both}, modality=("T1", "T2"))
    put(tmp_path / "imagesTr" / "a_0001.nii.gz", *turn(both.channels[1], plain.affine, "SLP"))
    np.testing.assert_array_equal(open_dataset(path).load("a").original, np.stack(both.channels))
