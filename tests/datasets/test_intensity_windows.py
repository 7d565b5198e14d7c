"""A window per channel, and percentiles where there is something."""

from __future__ import annotations

import numpy as np
import pytest

from robustvox.datasets import CaseError, ChannelWindows, IntensityWindow, open_dataset

from .layouts import LAYOUTS, Stored, example, write


def ct_and_pet(seed=0):
    case = example(seed)
    rng = np.random.default_rng(seed)
    ct = rng.normal(40, 30, case.label.shape).astype(np.float32)
    suv = (rng.normal(1, 0.2, case.label.shape) + 10.0 * (case.label > 0)).clip(0).astype(np.float32)
    return Stored((ct, suv), case.label, case.affine)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ct_beside_pet_has_a_window_of_its_own(tmp_path, layout):
    case = ct_and_pet()
    volume = open_dataset(write(layout, tmp_path, {"a": case}, modality=("CT", "PET"))).load("a")
    assert isinstance(volume.window, ChannelWindows)
    ct, pet = volume.window.windows
    assert (ct.low, ct.high, ct.unit) == (-175.0, 250.0, "HU")
    assert (pet.low, pet.high) == pytest.approx(np.percentile(case.channels[1], (0.5, 99.5)))
    assert pet.unit == "a.u."
    assert volume.window.unit == "HU, a.u."
    assert volume.window.physical(8 / 255) == pytest.approx((425 * 8 / 255, (pet.high - pet.low) * 8 / 255))
    np.testing.assert_array_equal(volume.image[0], ct.apply(case.channels[0]))
    np.testing.assert_array_equal(volume.image[1], pet.apply(case.channels[1]))
    np.testing.assert_array_equal(volume.original, np.stack(case.channels))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_says_that_it_is_ct_is_windowed_in_hounsfield_units(tmp_path, layout):
    case = example()
    volume = open_dataset(write(layout, tmp_path, {"a": case}, modality=("CT",))).load("a")
    assert volume.window == IntensityWindow(-175.0, 250.0, "HU")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_ct_that_is_not_in_hounsfield_units_is_refused(tmp_path, layout):
    case = example()
    scaled = (case.channels[0] - case.channels[0].min()) / np.ptp(case.channels[0])
    path = write(layout, tmp_path, {"a": Stored((scaled,), case.label, case.affine)}, modality=("CT",))
    with pytest.raises(
        CaseError, match=r"intensities in HU with contrast in -175..250, found 0..1; give the original"
    ):
        open_dataset(path).load("a")


@pytest.mark.parametrize("share", [0.004, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("empty", [0.0, -1000.0, 3000.0])
def test_a_field_of_view_that_is_mostly_empty_is_not_an_empty_volume(tmp_path, share, empty):
    case = example()
    side = round((case.label.size / share) ** (1 / 3)) + 1
    shape = tuple(max(side, n) for n in case.label.shape)
    image, label = np.full(shape, empty, np.float32), np.zeros(shape, np.uint8)
    there = tuple(slice(0, n) for n in case.label.shape)
    image[there], label[there] = case.channels[0], case.label
    root = write("msd", tmp_path, {"cut": case, "whole": Stored((image,), label, case.affine)})
    data = open_dataset(root)
    cut, whole = data.load("cut"), data.load("whole")
    assert whole.window == cut.window
    np.testing.assert_array_equal(whole.image[(slice(None), *there)], cut.image)


def test_spots_of_one_value_span_the_window(tmp_path):
    case = example()
    image = np.zeros(case.label.shape, np.float32)
    image.flat[::400] = 50
    volume = open_dataset(write("msd", tmp_path, {"a": Stored((image,), case.label, case.affine)})).load("a")
    assert (volume.window.low, volume.window.high) == (0.0, 50.0)
    assert volume.stored.nonzero == pytest.approx((np.count_nonzero(image) / image.size,))


def test_spots_of_nearly_one_value_do_too(tmp_path):
    # Their own percentiles would show the rounding of the file, and them as dark as what is empty.
    case = example()
    image = np.zeros(case.label.shape, np.float32)
    image.flat[::40] = np.linspace(50, 50.1, image.flat[::40].size)
    volume = open_dataset(write("msd", tmp_path, {"a": Stored((image,), case.label, case.affine)})).load("a")
    assert (volume.window.low, volume.window.high) == pytest.approx((0.0, 50.1), abs=1e-2)


def test_an_empty_volume_is_refused_with_what_was_found(tmp_path):
    case = example()
    image = np.full(case.label.shape, 7.0, np.float32)
    path = write("msd", tmp_path, {"a": Stored((image,), case.label, case.affine)})
    with pytest.raises(CaseError, match="an image with contrast, found 7 in every voxel"):
        open_dataset(path).load("a")
