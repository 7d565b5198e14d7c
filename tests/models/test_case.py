"""A case in other axes and in its own intensities."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from robustvox.models.case import CaseSource, axes_of, turn, turn_back, turn_between

ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*pairs)
]


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_turning_is_nibabels_reorientation(codes):
    values = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    oblique = np.array([[0.9, -0.3, 0, 1], [0.3, 0.9, 0.1, 2], [0, -0.1, 2.0, 3], [0, 0, 0, 1.0]])
    stored = nib.nifti1.Nifti1Image(values, oblique).as_reoriented(
        ornt_transform(io_orientation(oblique), axcodes2ornt(tuple(codes)))
    )
    how = turn_between(oblique, np.asarray(stored.affine))
    turned = turn(torch.from_numpy(values)[None, None], how)
    np.testing.assert_array_equal(turned[0, 0].numpy(), np.asarray(stored.dataobj))
    torch.testing.assert_close(turn_back(turned, how)[0, 0], torch.from_numpy(values))
    assert how == turn_between(oblique, axes_of(codes))


@pytest.mark.parametrize("codes", ["RA", "RAX", "RRS", "RLS"])
def test_codes_that_are_no_axes_are_refused(codes):
    with pytest.raises(ValueError, match="three of L or R"):
        axes_of(codes)


def test_the_clean_image_gives_the_intensities_of_the_file_to_the_bit():
    original = np.random.default_rng(0).uniform(-1000, 1500, (2, 3, 4, 5)).astype(np.float32)
    low, high = np.array([-175.0, 0.0]), np.array([250.0, 1000.0])
    shape = (2, 1, 1, 1)
    image = np.clip((original - low.reshape(shape)) / (high - low).reshape(shape), 0, 1).astype(np.float32)
    source = CaseSource(
        id="a", affine=np.eye(4), image=image, original=original, low=tuple(low), high=tuple(high)
    )
    images = torch.from_numpy(image)[None]
    assert torch.equal(source.intensities(images)[0], torch.from_numpy(original))
    moved = source.intensities(images + 0.1)[0].numpy() - original
    # Each channel moves by its own window, clipped voxels too.
    np.testing.assert_allclose(
        moved, np.broadcast_to(0.1 * (high - low).reshape(shape), moved.shape), rtol=2e-3
    )
    with pytest.raises(ValueError, match="of case a"):
        source.intensities(images[..., :-1])
    bare = CaseSource(id="a", affine=np.eye(4), image=image, low=tuple(low), high=tuple(high))
    assert float(bare.intensities(torch.zeros(1, 2, 1, 1, 1))[0, 0]) == -175.0


@pytest.mark.parametrize("known", [True, False])
def test_intensities_have_the_same_bits_from_windows_that_were_copied_once(known):
    image = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    low, high = (-175.3, 0.1), (250.7, 1000)
    given = {"original": image * 1000} if known else {}
    source = CaseSource(id="a", affine=np.eye(4), image=image, low=low, high=high, **given)
    for dtype in (torch.float32, torch.float64, torch.float32):
        images = torch.rand(2, 2, 3, 4, 5, dtype=dtype)
        lows, highs = (torch.tensor(side, dtype=dtype).view(1, 2, 1, 1, 1) for side in (low, high))
        with torch.inference_mode():
            source.intensities(images)
        variable = images.clone().requires_grad_()
        found = source.intensities(variable)
        span = highs - lows
        wanted = images * span + lows
        if known:
            clean = torch.from_numpy(image).to(dtype)
            wanted = torch.from_numpy(given["original"]).to(dtype) + (images - clean) * span
        assert torch.equal(found, wanted)
        assert torch.equal(torch.autograd.grad(found.sum(), variable)[0], span.expand_as(images))
    kept = {name for name, _, _ in source._tensors}
    assert {"low", "high"} <= kept
