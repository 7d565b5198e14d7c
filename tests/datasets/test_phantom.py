"""The embedded phantom: a function of seed and id, the dataset contract, and hard for intensity alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from robustvox.datasets.base import CaseError, Dataset, Volume
from robustvox.datasets.phantom import Phantom
from robustvox.datasets.phantom_anatomy import MINIMUM_VOXELS, organ_intensities

BINS = 256
CLASSES = len(Phantom().class_names)
# Pairs that touch in most patients; the network has to find the boundary between them.
NEIGHBORS = (("liver", "right_kidney"), ("liver", "stomach"), ("liver", "gallbladder"), ("spleen", "stomach"))


def digest(volume: Volume) -> str:
    """Fingerprint of everything random in a volume."""
    parts = (volume.image.tobytes(), volume.label.tobytes(), volume.affine.tobytes(), repr(volume.spacing_mm))
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()


@pytest.fixture(scope="module")
def train() -> list[Volume]:
    phantom = Phantom(train=10)
    return [phantom.load(case_id) for case_id in phantom.splits["train"]]


@pytest.fixture(scope="module")
def validation() -> list[Volume]:
    phantom = Phantom(validation=8)
    return [phantom.load(case_id) for case_id in phantom.splits["validation"]]


def test_is_a_dataset() -> None:
    phantom = Phantom()
    assert isinstance(phantom, Dataset)
    assert phantom.name == "phantom"
    assert phantom.class_names[0] == "background"
    assert set(MINIMUM_VOXELS) == set(phantom.class_names[1:])
    assert {"source", "license", "split_rule", "preprocessing"} <= set(phantom.provenance)
    assert all(isinstance(value, str) for value in phantom.provenance.values())


def test_splits_are_disjoint_and_sized() -> None:
    splits = Phantom(train=5, validation=3).splits
    assert splits["train"] == tuple(f"train_{i:03d}" for i in range(5))
    assert splits["validation"] == ("val_000", "val_001", "val_002")
    assert not set(splits["train"]) & set(splits["validation"])


@pytest.mark.parametrize("sizes", [{"train": 0}, {"validation": -1}])
def test_empty_split_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one case"):
        Phantom(**sizes)


@pytest.mark.parametrize("case_id", ["train_064", "val_16", "test_000", "", "../val_000"])
def test_unknown_id(case_id: str) -> None:
    with pytest.raises(CaseError, match="train_000 to train_063") as caught:
        Phantom().load(case_id)
    assert caught.value.case_id == case_id


def test_same_bytes_in_another_process() -> None:
    code = (
        "import sys, runpy; tests = runpy.run_path(sys.argv[1]);"
        "sys.stdout.write(tests['digest'](tests['Phantom'](seed=3).load('val_002')))"
    )
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    phantom = Phantom(seed=3)
    phantom.load("train_000")
    assert done.stdout == digest(phantom.load("val_002"))


def test_split_sizes_do_not_change_a_case() -> None:
    assert digest(Phantom(train=1, validation=1).load("val_000")) == digest(Phantom().load("val_000"))


def test_every_case_differs(train: list[Volume], validation: list[Volume]) -> None:
    volumes = [*train, *validation, Phantom(seed=1).load("val_000")]
    assert len({digest(volume) for volume in volumes}) == len(volumes)
    assert len({volume.image.shape for volume in volumes}) > len(volumes) // 2


def check_contract(volume: Volume, roi: tuple[int, ...]) -> None:
    """Everything the harness relies on, for one volume."""
    shape = volume.label.shape
    assert volume.image.shape == (1, *shape)
    assert volume.image.dtype == np.float32
    assert volume.label.dtype == np.uint8
    assert np.isfinite(volume.image).all()
    assert volume.image.min() == 0
    assert volume.image.max() == 1
    assert all(side % 16 and side > window for side, window in zip(shape, roi, strict=True))
    assert 66 <= shape[0] <= 74
    assert 43 <= shape[1] <= 47
    assert 36 <= shape[2] <= 42
    assert np.all(np.abs(np.asarray(volume.spacing_mm) - (5, 5, 6)) < 0.5)
    assert np.allclose(
        volume.affine, np.diag((*volume.spacing_mm, 1)) + np.pad(volume.affine[:3, 3:], ((0, 1), (3, 0)))
    )
    counts = np.bincount(volume.label.ravel())
    assert len(counts) == CLASSES
    names = Phantom().class_names
    assert all(counts[names.index(organ)] >= least for organ, least in MINIMUM_VOXELS.items())


def test_contract(validation: list[Volume]) -> None:
    for volume in validation:
        check_contract(volume, Phantom().roi_size)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(-(2**40), 2**40), index=st.integers(0, 63))
def test_contract_of_any_seed(seed: int, index: int) -> None:
    check_contract(Phantom(seed=seed).load(f"train_{index:03d}"), Phantom().roi_size)


def center(volume: Volume, organ: str) -> np.ndarray:
    """Center of an organ in world mm."""
    voxels = np.argwhere(volume.label == Phantom().class_names.index(organ)).mean(0)
    return volume.affine[:3, :3] @ voxels + volume.affine[:3, 3]


def test_organs_lie_where_anatomy_puts_them(validation: list[Volume]) -> None:
    for volume in validation:
        right, anterior, superior = range(3)
        assert (
            center(volume, "liver")[right] > center(volume, "aorta")[right] > center(volume, "spleen")[right]
        )
        assert center(volume, "right_kidney")[right] > center(volume, "left_kidney")[right]
        assert center(volume, "stomach")[anterior] > center(volume, "left_kidney")[anterior]
        assert center(volume, "liver")[superior] > center(volume, "gallbladder")[superior]


def test_organs_are_whole(validation: list[Volume]) -> None:
    for volume in validation:
        for class_id in range(1, CLASSES):
            pieces, _ = ndimage.label(volume.label == class_id, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.max() >= 0.95 * sizes.sum()


def test_neighbors_contrast_within_a_patient(validation: list[Volume]) -> None:
    names = Phantom().class_names
    for one, other in NEIGHBORS:
        gaps = []
        for volume in validation:
            hu = volume.window.invert(volume.image[0])
            # Medians of the interior: gas, edges and noise are not the tissue's mean.
            inside = [
                np.median(hu[ndimage.binary_erosion(volume.label == names.index(organ))])
                for organ in (one, other)
            ]
            gaps.append(abs(inside[0] - inside[1]))
        assert 10 <= np.median(gaps) <= 40, (one, other, gaps)
        assert min(gaps) >= 6, (one, other, gaps)


def test_intensities_overlap_between_patients() -> None:
    patients = [organ_intensities(np.random.default_rng(index)) for index in range(200)]
    low, high = (np.quantile([patient["spleen"] for patient in patients], q) for q in (0.1, 0.9))
    for organ in ("liver", "right_kidney", "left_kidney", "aorta"):
        inside = np.mean([low < patient[organ] < high for patient in patients])
        assert inside > 0.2, organ


def histogram(volume: Volume) -> np.ndarray:
    """Voxels per class and intensity bin, ``(CLASSES, BINS)``."""
    bins = np.minimum((volume.image[0] * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(bins[volume.label == k], minlength=BINS) for k in range(CLASSES)])


def dice_of_bins(chosen: np.ndarray, counts: np.ndarray) -> float:
    """Mean foreground Dice when class ``k`` is predicted on the bins ``chosen[k]`` (bool)."""
    pairs = [
        (counts[k, chosen[k]].sum(), counts[:, chosen[k]].sum() + counts[k].sum()) for k in range(1, CLASSES)
    ]
    return float(np.mean([2 * hit / size for hit, size in pairs]))


def most_probable(counts: np.ndarray) -> np.ndarray:
    """Per bin the most frequent class."""
    return counts.argmax(0) == np.arange(CLASSES)[:, None]


def most_probable_organ(counts: np.ndarray) -> np.ndarray:
    """Per bin the class with the highest likelihood: small organs are not drowned by large ones."""
    return most_probable(counts / counts.sum(1, keepdims=True))


def best_intervals(counts: np.ndarray) -> np.ndarray:
    """Per class the interval of bins with the best Dice, chosen with no regard to the other classes."""
    low, high = np.triu_indices(BINS + 1, 1)
    chosen = np.zeros((CLASSES, BINS), bool)
    ends = np.concatenate(([0], counts.sum(0).cumsum()))
    for k in range(1, CLASSES):
        own = np.concatenate(([0], counts[k].cumsum()))
        best = (2 * (own[high] - own[low]) / (ends[high] - ends[low] + own[-1])).argmax()
        chosen[k, low[best] : high[best]] = True
    return chosen


def best_bins(counts: np.ndarray) -> np.ndarray:
    """Per class the set of bins with the best Dice at all: purest bins first, as many as pay."""
    chosen = np.zeros((CLASSES, BINS), bool)
    total = counts.sum(0)
    for k in range(1, CLASSES):
        order = np.argsort(-counts[k] / np.maximum(total, 1), kind="stable")
        own, size = counts[k][order].cumsum(), total[order].cumsum()
        chosen[k, order[: (2 * own / (size + counts[k].sum())).argmax() + 1]] = True
    return chosen


CLASSIFIERS = (most_probable, most_probable_organ, best_intervals, best_bins)


def scores(classifier, train: list[Volume], validation: list[Volume]) -> Iterator[tuple[str, float]]:
    """Mean foreground Dice fitted on train, and fitted on each validation case itself."""
    held_out = [histogram(volume) for volume in validation]
    fitted = classifier(sum(map(histogram, train)))
    yield "train", float(np.mean([dice_of_bins(fitted, counts) for counts in held_out]))
    yield "oracle", float(np.mean([dice_of_bins(classifier(counts), counts) for counts in held_out]))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_intensity_alone_does_not_segment(classifier, train: list[Volume], validation: list[Volume]) -> None:
    for fitted_on, dice in scores(classifier, train, validation):
        assert dice < 0.55, fitted_on
