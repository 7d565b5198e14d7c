"""What the calibration recovers, when the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustvox.benchmark.studies.stealing.calibration import PowerCalibration
from robustvox.benchmark.studies.stealing.scans import Scan, texture_phantoms
from robustvox.datasets.scanner import ScannerShift

SPACING = (1.0, 1.0, 1.0)


def textures(count=4, shape=(32, 36, 30), spacing=SPACING, seed=0):
    return texture_phantoms(count, shape, spacing, seed)


def through(shift, scans):
    return [Scan(s.id, shift(s.image, s.spacing_mm, s.id), s.spacing_mm) for s in scans]


def sure(fitted, at_least=10):
    return np.array(fitted.snr) > at_least


def test_two_equal_scanners_leave_the_volume_alone():
    a, b = textures(24, seed=1), textures(24, seed=2)
    for fitted in (PowerCalibration().fit(a, a), PowerCalibration().fit(a, b)):
        good = sure(fitted)
        assert good.sum() >= 10
        for gain in (fitted.to_a_gain, fitted.to_b_gain):
            assert (np.abs(np.array(gain)[good] - 1) <= 0.1).all()
        image = torch.from_numpy(a[0].image)[None]
        assert (fitted.to_a(image, SPACING) - image).abs().mean() < 2e-2
        assert (fitted.to_a(image, SPACING) - image).square().mean().sqrt() < 2e-2


@pytest.mark.parametrize("spacing", [SPACING, (0.7, 0.7, 1.5)])
@pytest.mark.parametrize(
    "shift",
    [
        ScannerShift(edge=2.0, noise=0.001),
        ScannerShift(psf_mm=0.6, noise=0.001),
        ScannerShift(edge=1.0, psf_mm=0.3),
    ],
)
def test_a_known_transfer_function_is_recovered(shift, spacing):
    check_recovered(shift, textures(spacing=spacing), textures(spacing=spacing))


def test_it_is_recovered_from_other_patients_when_there_are_enough():
    """In the lowest bins few coefficients stand for each volume, so unpaired spectra take more of them."""
    check_recovered(ScannerShift(edge=2.0, noise=0.001), textures(40), textures(40, seed=7))


def check_recovered(shift, a, b):
    fitted = PowerCalibration().fit(a, through(shift, b))
    good = sure(fitted)
    assert good.sum() >= 6
    truth = np.log(shift.transfer(np.array(fitted.frequency)))
    assert np.abs(np.array(fitted.log_h) - truth)[good].max() < 0.15


def test_calibrated_volumes_are_nearer_to_scanner_a_and_back():
    a = textures()
    shift = ScannerShift(edge=2.0, noise=0.001)
    b = through(shift, a)
    fitted = PowerCalibration().fit(a, b)
    x_a, x_b = (torch.from_numpy(s[0].image)[None] for s in (a, b))

    def error(x, y):
        return float((x - y).square().mean().sqrt())

    assert error(fitted.to_a(x_b, SPACING), x_a) < 0.3 * error(x_b, x_a)
    assert error(fitted.to_b(x_a, SPACING), x_b) < 0.5 * error(x_b, x_a)


def test_the_gain_is_bounded_and_falls_to_nothing_where_there_is_only_noise():
    a = textures()
    b = through(ScannerShift(psf_mm=1.5, noise=0.01, nps_tilt=0.0), a)
    fitted = PowerCalibration(max_gain=3.0).fit(a, b)
    assert max(fitted.to_a_gain) <= 3.0
    assert PowerCalibration(max_gain=100.0).fit(a, b).to_a_gain[np.argmin(fitted.snr)] < 0.05
    assert 1 / np.exp(min(fitted.log_h)) > 8  # what an unregularized quotient would have raised noise by


def test_gradient_of_both_ways_is_the_adjoint_filter():
    fitted = PowerCalibration().fit(textures(), through(ScannerShift(edge=3.0), textures()))
    x, y = torch.randn(2, 1, 1, 9, 8, 7, dtype=torch.float64)
    for way in (fitted.to_a, fitted.to_b):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad((way(x, SPACING) * y).sum(), x)
        torch.testing.assert_close(gradient, way(y, SPACING))
        x = x.detach()
        torch.testing.assert_close((way(x, SPACING) * y).sum(), (x * way(y, SPACING)).sum())


def test_order_and_size_of_the_scans_do_not_matter():
    a = [*textures(2), *textures(2, (24, 40, 28), seed=3)]
    b = through(ScannerShift(edge=2.0), a)
    assert PowerCalibration().fit(a, b) == PowerCalibration().fit(a[::-1], [b[2], b[0], b[3], b[1]])


def test_brightness_and_padding_free_constant_do_not_matter():
    """The mean is taken out, and a gain of the whole spectrum is seen as one."""
    a = textures()
    darker = [Scan(s.id, s.image * 0.5, s.spacing_mm) for s in a]
    fitted = PowerCalibration().fit(a, darker)
    np.testing.assert_allclose(fitted.log_h, np.log(0.5), atol=1e-3)


def test_bending_multiplies_the_gain_and_leaves_the_bound():
    fitted = PowerCalibration().fit(textures(), textures(seed=5))
    bent = fitted.bent([0.0, 0.3], max_gain=6.0)
    ratio = np.array(bent.to_a_gain) / np.array(fitted.to_a_gain).clip(1e-12)
    np.testing.assert_allclose(
        np.log(ratio[:20]), 0.3 * np.array(fitted.frequency[:20]) / fitted.frequency[-1], atol=1e-9
    )
    assert fitted.bent([5.0] * 6, max_gain=6.0).to_a_gain[0] == 6.0


@pytest.mark.parametrize(("kw", "message"), [({"bins": 3}, "bins"), ({"max_gain": 0.5}, "max_gain")])
def test_bad_parameters_are_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        PowerCalibration(**kw)


def test_no_scans_are_refused():
    with pytest.raises(ValueError, match="scans of both scanners"):
        PowerCalibration().fit([], textures(1))
