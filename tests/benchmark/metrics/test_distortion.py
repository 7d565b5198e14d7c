"""Distortion against closed forms and MONAI's SSIM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustvox.benchmark.metrics.distortion import measure


def pair(shape: tuple[int, ...], noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = rng.random(shape)
    return np.clip(clean + rng.normal(0, noise, shape), 0, 1), clean


def test_closed_form() -> None:
    clean = np.zeros((2, 4, 5, 6))
    adversarial = clean.copy()
    adversarial[0, 1, 2, 3] = 0.3
    adversarial[1, 0, 0, 0] = 0.4
    result = measure(adversarial, clean)
    assert result.linf == 0.4
    assert result.l2 == pytest.approx(0.5)
    assert result.psnr == pytest.approx(-10 * math.log10(0.25 / 240))


def test_identical_images_have_infinite_psnr_and_ssim_one() -> None:
    clean = pair((1, 9, 7, 5))[1]
    assert measure(clean, clean) == (0.0, 0.0, math.inf, 1.0)


@pytest.mark.parametrize("shape", [(1, 14, 15, 13), (2, 12, 16), (3, 20, 11, 12)])
def test_ssim_is_monais(shape: tuple[int, ...]) -> None:
    from monai.metrics.regression import SSIMMetric

    adversarial, clean = pair(shape)
    metric = SSIMMetric(spatial_dims=len(shape) - 1, data_range=1.0)
    theirs = metric(torch.tensor(adversarial)[None].float(), torch.tensor(clean)[None].float())
    assert measure(adversarial, clean).ssim == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 20, 2), (1, 1, 1), (2, 5, 1, 30), (1, 4), (1, 10, 10, 10, 3)])
def test_any_rank_and_sides_shorter_than_the_window(shape: tuple[int, ...]) -> None:
    adversarial, clean = pair(shape)
    result = measure(adversarial, clean)
    assert -1.0 <= result.ssim < 1.0
    assert all(math.isfinite(value) for value in result)


def test_tensors_on_a_graph_equal_arrays() -> None:
    adversarial, clean = (array.astype(np.float32) for array in pair((1, 8, 9, 10)))
    tensor = torch.tensor(adversarial, requires_grad=True)
    assert measure(tensor, torch.tensor(clean)) == measure(adversarial, clean)


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    weak, clean = pair((1, 16, 16, 16), 0.02)
    strong = pair((1, 16, 16, 16), 0.2)[0]
    assert measure(weak, clean).ssim == pytest.approx(measure(clean, weak).ssim)
    assert measure(strong, clean).ssim < measure(weak, clean).ssim < 1


@pytest.mark.parametrize(
    ("adversarial", "clean", "message"),
    [
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 5)), "expected the clean image's shape"),
        (np.full((1, 4, 4), np.nan), np.zeros((1, 4, 4)), "adversarial: expected finite"),
        (np.zeros((1, 4, 4)), np.full((1, 4, 4), np.inf), "clean: expected finite"),
        (np.zeros(4), np.zeros(4), "expected an image"),
        (np.zeros((1, 0, 4)), np.zeros((1, 0, 4)), "expected an image"),
    ],
)
def test_unusable_images_are_refused(adversarial: np.ndarray, clean: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(adversarial, clean)
