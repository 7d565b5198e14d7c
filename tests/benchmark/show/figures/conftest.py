"""An attacked case made by hand: uneven sides and spacing, so that a swapped axis shows."""

from __future__ import annotations

import numpy as np
import pytest

from robustvox.benchmark.show.figures.slices import Example


@pytest.fixture
def example():
    def make(shape=(9, 12, 7), spacing=(1.0, 1.5, 4.0), affine=None, channels=1, **changes) -> Example:
        rng = np.random.default_rng(0)
        image = rng.random((channels, *shape)).astype(np.float32)
        reference = np.zeros(shape, np.int64)
        reference[2:6, 3:9, 1:5] = 1
        reference[6:8, 3:9, 1:5] = 2
        attacked = reference.copy()
        attacked[4:6, 3:9, 2] = 2
        values = {
            "image": image,
            "adversarial": np.clip(image + rng.uniform(-8 / 255, 8 / 255, image.shape), 0, 1).astype(
                np.float32
            ),
            "reference": reference,
            "clean_prediction": reference,
            "adversarial_prediction": attacked,
            "spacing_mm": spacing,
            "affine": np.diag([*spacing, 1.0]) if affine is None else affine,
            "class_names": ("background", "one", "two"),
            "dice_clean": 1.0,
            "dice_adversarial": 0.8125,
            "title": "toy",
        }
        return Example(**{**values, **changes})

    return make
