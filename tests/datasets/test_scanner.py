"""The second scanner: its transfer function is what it says, whatever the grid, and its randomness its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.datasets import IntensityWindow, Volume
from robustvox.datasets.scanner import ScannerShift, frequencies


def wave(shape, spacing_mm, axis, cycles_per_mm, height=0.01):
    """A plane wave around 0.5 and its exact frequency on the grid."""
    millimetres = np.arange(shape[axis]) * spacing_mm[axis]
    line = 0.5 + height * np.cos(2 * np.pi * cycles_per_mm * millimetres)
    return np.broadcast_to(line.reshape([-1 if a == axis else 1 for a in range(len(shape))]), shape)[None]


@settings(max_examples=25, deadline=None)
@given(
    axis=st.integers(0, 2),
    index=st.integers(1, 9),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.7, 1.3, 2.5)]),
    psf=st.floats(0, 1.5),
    edge=st.floats(0, 6),
    edge_mm=st.floats(0.3, 2),
)
def test_a_wave_is_raised_by_h_of_its_frequency_in_cycles_per_mm(axis, index, spacing, psf, edge, edge_mm):
    shape = (20, 24, 22)
    scanner = ScannerShift(psf_mm=psf, edge=edge, edge_mm=edge_mm, noise=0.0)
    frequency = index / (shape[axis] * spacing[axis])
    blur = np.exp(-2 * (np.pi * psf * frequency) ** 2)
    h = blur * (1 + edge * (1 - np.exp(-2 * (np.pi * edge_mm * frequency) ** 2)))
    image = wave(shape, spacing, axis, frequency)
    seen = scanner(image.astype(np.float64), spacing)
    np.testing.assert_allclose(seen - 0.5, h * (image - 0.5), atol=1e-6)


def test_without_any_effect_the_volume_stays():
    image = np.random.default_rng(0).random((2, 7, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(ScannerShift(noise=0.0)(image, (1, 1, 1)), image, atol=1e-6)


def test_order_of_the_effects():
    image = np.full((1, 8, 8, 8), 0.25, np.float32)
    np.testing.assert_allclose(
        ScannerShift(noise=0, gain=2, gamma=0.5)(image, (1, 1, 1)), 0.5**0.5, rtol=1e-6
    )
    field = ScannerShift(noise=0, bias=0.3)(image, (1, 1, 1)) / 0.25
    assert np.isclose(np.abs(np.log(field)).max(), 0.3, atol=1e-5)
    assert np.ptp(field) > 0.1
    assert ScannerShift(noise=0, gain=5)(image, (1, 1, 1)).max() == 1


@pytest.mark.parametrize("tilt", [0.0, 1.0, 2.0])
def test_noise_has_its_size_and_its_color(tilt):
    flat = np.full((1, 48, 48, 48), 0.5)
    noise = (ScannerShift(noise=0.02, nps_tilt=tilt)(flat, (1, 1, 1)) - 0.5)[0]
    assert abs(noise.std() - 0.02) < 1e-4
    power, f = np.abs(np.fft.fftn(noise)) ** 2, frequencies(noise.shape, (1, 1, 1))
    low, high = ((f > a) & (f < b) for a, b in ((0.08, 0.12), (0.38, 0.42)))
    slope = np.log(power[high].mean() / power[low].mean()) / np.log(f[high].mean() / f[low].mean())
    assert abs(slope - tilt) < 0.15


def test_randomness_follows_seed_and_case_alone():
    image = np.full((1, 9, 8, 7), 0.5, np.float32)
    scan = ScannerShift(noise=0.05, bias=0.2)
    np.random.seed(1)
    first = scan(image, (1, 1, 1), "case_1")
    np.random.seed(2)
    assert np.array_equal(first, scan(image, (1, 1, 1), "case_1"))
    assert not np.array_equal(first, scan(image, (1, 1, 1), "case_2"))
    assert not np.array_equal(first, ScannerShift(noise=0.05, bias=0.2, seed=1)(image, (1, 1, 1), "case_1"))


def test_a_volume_keeps_everything_but_its_image():
    image = np.random.default_rng(0).random((1, 6, 5, 4)).astype(np.float32)
    volume = Volume(
        "a", image, np.zeros((6, 5, 4), np.int64), (1.0, 1.0, 2.0), np.eye(4), IntensityWindow(0, 1)
    )
    seen = ScannerShift(edge=3).scan(volume)
    assert (seen.id, seen.spacing_mm) == ("a", (1.0, 1.0, 2.0))
    assert seen.label is volume.label
    assert seen.image.dtype == np.float32
    assert np.array_equal(volume.image, image)
    assert np.array_equal(seen.image, ScannerShift(edge=3)(image, volume.spacing_mm, "a"))


@pytest.mark.parametrize("text", ["edge:6", "psf_mm:0.5,edge:6,noise:0.02", "gamma:1.6,seed:3", ""])
def test_specs_are_read_back(text):
    scanner = ScannerShift.parse(text)
    assert str(scanner) == text
    assert ScannerShift.parse(str(scanner)) == scanner
    assert ScannerShift.parse(text.replace(":", "=")) == scanner


@pytest.mark.parametrize(
    ("text", "message"),
    [("edges:6", "expected a shift among psf_mm"), ("edge:much", "expected a number after edge:"), ("edge", "number"),
     ("edge:-1", "edge: expected a finite number >= 0"), ("gamma:0", "gamma: expected a finite number > 0"),
     ("noise:nan", "noise: expected a finite number")],
)  # fmt: skip
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ScannerShift.parse(text)


def test_a_spacing_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="expected one spacing per spatial axis"):
        ScannerShift()(np.zeros((1, 4, 4, 4)), (1.0, 1.0))
