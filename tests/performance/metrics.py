"""Time of ``score`` beside MONAI's ``compute_hausdorff_distance``: 8 organs on 140x150x110.

Run ``OMP_NUM_THREADS=1 python tests/performance/metrics.py``. MONAI computes HD95 only; ``score`` computes
Dice, HD95 and NSD in the same time. MONAI's one-hot encoding is not counted. Times are of the processor, ratios
medians of rounds; the last column is the least ratio of a round, without cache.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.networks.utils import one_hot
from scipy.ndimage import gaussian_filter

from robustvox.benchmark.metrics.scores import LabelSurfaces, score

SHAPE, SPACING, CLASSES = (140, 150, 110), (1.5, 1.5, 2.0), 9

ROUNDS = 9  # the ways take turns, so that a busy machine slows all of them


def organs(shift: float, roughness: float, seed: int) -> np.ndarray:
    """Eight rough ellipsoids, moved by ``shift`` voxels, as a label volume."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij"), axis=-1)
    noise = gaussian_filter(rng.normal(size=SHAPE), 3.0)
    noise *= roughness / noise.std()
    labels = np.zeros(SHAPE, np.int64)
    for index in range(CLASSES - 1):
        corner = np.array([(index >> bit) & 1 for bit in range(3)])
        center = (0.27 + 0.46 * corner) * SHAPE + shift
        radius = np.array([22, 25, 18]) * (0.6 + 0.1 * (index % 5))
        labels[np.square((grid - center) / radius).sum(-1) + noise < 1] = index + 1
    return labels


def speckle(labels: np.ndarray, share: float) -> np.ndarray:
    """Random voxels relabelled, as a strong attack does."""
    rng = np.random.default_rng(1)
    hit = rng.random(labels.shape) < share
    return np.where(hit, rng.integers(0, CLASSES, labels.shape), labels)


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # MONAI warns about every erased organ
    reference = organs(0.0, 0.05, 0)
    half_erased = organs(2.0, 0.3, 2)
    half_erased[:, :, 60:] = 0
    predictions = {
        "near (clean)": organs(0.7, 0.1, 1),
        "shifted 4 voxels": organs(4.0, 0.2, 2),
        "shifted 10 voxels": organs(10.0, 0.2, 2),
        "shifted 20 voxels": organs(20.0, 0.2, 2),
        "half erased": half_erased,
        "speckled 1%": speckle(organs(1.0, 0.2, 3), 0.01),
        "speckled 10%": speckle(organs(1.0, 0.2, 3), 0.10),
    }
    options = {"num_classes": CLASSES, "spacing_mm": SPACING}
    cache = LabelSurfaces(reference, **options)
    truth = one_hot(torch.from_numpy(reference)[None, None], CLASSES)
    print(
        f"{'prediction':18}{'MONAI s':>9}{'score s':>9}{'cached s':>9}{'ratio':>7}{'cached':>8}{'least':>8}"
    )
    for name, prediction in predictions.items():
        guess = one_hot(torch.from_numpy(prediction)[None, None], CLASSES)
        theirs = compute_hausdorff_distance(guess, truth, percentile=95, spacing=SPACING)[0].numpy()
        ours = score(prediction, reference, **options)
        both = ours.status == "ok"  # MONAI has no value where a class is in one volume only
        np.testing.assert_allclose(ours.hd95_mm[both], theirs[both], rtol=1e-5)
        ways = (
            lambda: compute_hausdorff_distance(guess, truth, percentile=95, spacing=SPACING),  # noqa: B023
            lambda: score(prediction, reference, **options),  # noqa: B023
            lambda: score(prediction, reference, **options, cache=cache),  # noqa: B023
        )
        times = np.array([[seconds(way) for way in ways] for _ in range(ROUNDS)])
        monai, plain, cached = np.median(times, axis=0)
        ratios = times[:, :1] / times[:, 1:]
        ratio, with_cache = np.median(ratios, axis=0)
        print(
            f"{name:18}{monai:9.3f}{plain:9.4f}{cached:9.4f}"
            f"{ratio:6.1f}x{with_cache:7.1f}x{ratios[:, 0].min():7.1f}x"
        )


if __name__ == "__main__":
    main()
