"""Volumes in memory: what is unambiguous is converted, the rest is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robustvox.datasets import DatasetError, IntensityWindow, Volume
from robustvox.datasets.bare import check_volume, check_volumes

RNG = np.random.default_rng(0)
IMAGE = RNG.random((1, 6, 7, 8), dtype=np.float32)
LABEL = (RNG.random((6, 7, 8)) > 0.7).astype(np.int64)


def volume(**changes):
    plain = Volume("v", IMAGE, LABEL, (1.0, 1.0, 2.0), np.eye(4), IntensityWindow(0, 1))
    return replace(plain, **changes)


CONVERTED = {
    "flipped view": {"image": IMAGE[:, ::-1], "label": LABEL[::-1]},
    "float64": {"image": IMAGE.astype(np.float64)},
    "float16": {"image": IMAGE.astype(np.float16)},
    "tensor": {"image": torch.from_numpy(IMAGE), "label": torch.from_numpy(LABEL)},
    "tensor with a gradient": {"image": torch.from_numpy(IMAGE).requires_grad_()},
    "bfloat16": {"image": torch.from_numpy(IMAGE).bfloat16()},
    "no channel axis": {"image": IMAGE[0]},
    "no channel axis but of the label": {"image": IMAGE[0], "label": LABEL[None]},
    "batch axis": {"image": IMAGE[None]},
    "batch axis of both": {"image": IMAGE[None], "label": LABEL[None, None]},
    "other byte order": {"image": IMAGE.astype(">f4"), "label": LABEL.astype(">u8")},
    "label with a channel axis": {"label": LABEL[None]},
    "label with a last axis": {"label": LABEL[..., None]},
    "float label": {"label": LABEL.astype(np.float32)},
    "bool label": {"label": LABEL.astype(bool)},
    "spacing as array": {"spacing_mm": np.array([1, 1, 2])},
    "no affine": {"affine": None},
}


@pytest.mark.parametrize("name", CONVERTED)
def test_what_is_unambiguous_is_converted(name):
    given = volume(**CONVERTED[name])
    found = check_volume(given, num_classes=2)
    assert found.image.shape == (1, 6, 7, 8)
    assert found.image.dtype == np.float32
    assert found.image.flags.c_contiguous
    assert found.label.shape == (6, 7, 8)
    torch.from_numpy(found.image)
    wanted = np.asarray(torch.as_tensor(np.ascontiguousarray(IMAGE)))
    wanted = wanted[:, ::-1] if name == "flipped view" else wanted
    np.testing.assert_allclose(found.image, wanted, atol=4e-3 if name == "bfloat16" else 5e-4)
    np.testing.assert_array_equal(found.label, LABEL[::-1] if name == "flipped view" else LABEL)
    assert found.spacing_mm == (1.0, 1.0, 2.0)


REFUSED = {
    "0..255": ({"image": IMAGE * 255}, r"intensities in \[0, 1\], found 0"),
    "negative": ({"image": IMAGE - 0.5}, r"intensities in \[0, 1\]"),
    "NaN": ({"image": np.where(IMAGE > 0.9, np.nan, IMAGE)}, "finite intensities"),
    "complex": ({"image": IMAGE.astype(np.complex64)}, "real numbers"),
    "other shape": ({"label": LABEL[:-1]}, r"an image \(C, \*spatial\)"),
    "channels last": ({"image": np.stack([IMAGE[0], IMAGE[0]], -1)}, r"an image \(C, \*spatial\)"),
    "half labels": ({"label": LABEL * 0.5}, "whole class ids"),
    "unknown class": ({"label": LABEL * 3}, r"labels in 0\.\.1, found 0\.\.3"),
    "negative class": ({"label": -LABEL}, "labels in 0"),
    "two sides": ({"spacing_mm": (1.0, 1.0)}, "3 positive voxel sides"),
    "no spacing": ({"spacing_mm": None}, "voxel sides"),
    "no window": ({"window": (0, 1)}, "an IntensityWindow"),
    "another affine": (
        {"affine": np.diag([-25.0, 25, 25, 1])},
        r"one voxel spacing, found \(1.0, 1.0, 2.0\) in spacing_mm and \(25.0, 25.0, 25.0\) in the affine",
    ),
    "masked": (
        {"image": np.ma.masked_less(IMAGE, 0.5)},
        "values everywhere in the image, found a masked array",
    ),
    "sheared": (
        {"affine": np.array([[1, 0.5, 0, 0], [0, 0.75**0.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])},
        "axes at right angles .* found 60.0 degrees between axes 0 and 1; resample",
    ),
    "half an affine": ({"affine": np.eye(3)}, r"a finite affine of shape \(4, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_is_refused_by_name(name):
    changes, message = REFUSED[name]
    with pytest.raises(DatasetError, match=message) as caught:
        check_volume(volume(**changes), num_classes=2)
    assert str(caught.value).startswith("volume v: expected ")
    assert "; " in str(caught.value)


def test_equal_ids_are_refused():
    with pytest.raises(DatasetError, match="an id of its own for each volume, found 'a' more than once"):
        check_volumes([volume(id="a"), volume(id="a"), volume(id="b")], num_classes=2)


@pytest.mark.parametrize("affine", [None, np.eye(4)], ids=["none", "identity"])
def test_an_affine_that_says_nothing_gets_the_sides_that_are_scored(affine):
    # A model that reads the spacing from the affine and HD95 mean the same millimetres.
    np.testing.assert_array_equal(
        check_volume(volume(affine=affine), num_classes=2).affine, np.diag([1.0, 1, 2, 1])
    )


def test_an_affine_that_agrees_is_kept():
    oblique = np.eye(4)
    oblique[:3, :3] = [[0, 0, -2.0], [0.6, -0.8, 0], [0.8, 0.6, 0]]
    np.testing.assert_array_equal(check_volume(volume(affine=oblique), num_classes=2).affine, oblique)
