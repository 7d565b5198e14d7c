"""The ten MSD tasks on miniatures: names, splits, channels, windows; the download is MONAI's and never runs here."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from robustvox.benchmark.plan.cases import load_dataset
from robustvox.datasets import ALIASES, CATALOG, DATASETS, TASK_NAMES, DatasetError, open_dataset, split_lists
from robustvox.datasets.decathlon import TASKS, download

# train and validation of ROG fold 0 add up to the published number of labelled cases
LABELLED = {1: 484, 2: 20, 3: 131, 5: 32, 6: 63, 7: 282, 8: 303, 9: 41, 10: 126}
HELD_OUT = {1: 145, 2: 4, 3: 37, 5: 10, 6: 19, 7: 57, 8: 91, 9: 8, 10: 38}
STEMS = {
    1: "BRATS_{:03d}", 2: "la_{:03d}", 3: "liver_{}", 4: "hippocampus_{:03d}", 5: "prostate_{:02d}",
    6: "lung_{:03d}", 7: "pancreas_{:03d}", 8: "hepaticvessel_{:03d}", 9: "spleen_{}", 10: "colon_{:03d}",
}  # fmt: skip
CLASSES = {1: 4, 2: 2, 3: 3, 4: 3, 5: 3, 6: 2, 7: 3, 8: 3, 9: 2, 10: 2}


def write_task(root, name, numbers, affine=None, shape=(16, 18, 8)):
    """A miniature of a task as its archive unpacks."""
    task = TASKS[name]
    folder = root / task.folder
    rng = np.random.default_rng(task.number)
    affine = np.diag([-1.5, -1.5, 4.0, 1.0]) if affine is None else affine
    ids = [STEMS[task.number].format(n) for n in numbers]
    for case in ids:
        label = np.zeros(shape, np.uint8)
        label[5:11, 6:12, 2:6] = 1
        scale = np.array([1.0, 30.0, 700.0, 4.0])[: len(task.channels)]
        image = (rng.normal(20, 5, shape) + 60.0 * label)[..., None] * scale
        image = image if len(task.channels) > 1 else image[..., 0]
        for sub, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / sub / f"{case}.nii.gz")
    meta = {
        "modality": {str(k): c for k, c in enumerate(task.channels)},
        "labels": {str(k): f"class {k}" if k else "background" for k in range(CLASSES[task.number])},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids],
    }
    (folder / "dataset.json").write_text(json.dumps(meta))
    return ids


def test_names_and_numbers():
    assert list(TASKS) == list(TASK_NAMES)
    assert [t.number for t in TASKS.values()] == list(range(1, 11))
    assert set(CATALOG) == set(DATASETS)
    assert {ALIASES[f"msd_task{n:02d}"] for n in range(1, 11)} == set(TASK_NAMES)


@pytest.mark.parametrize("number", HELD_OUT)
def test_validation_lists_have_the_published_length(number):
    ids = split_lists.numbers(split_lists.ROG_VALIDATION[number])
    assert len(set(ids)) == len(ids) == HELD_OUT[number] < LABELLED[number] / 2


@pytest.mark.parametrize("name", TASK_NAMES)
def test_each_task_by_both_names(tmp_path, name):
    number = TASKS[name].number
    listed = split_lists.numbers(split_lists.ROG_VALIDATION[number]) if number != 4 else (1,)
    held_out, other = listed[0], next(n for n in range(1, 400) if n not in listed)
    ids = write_task(tmp_path, name, [held_out, other])
    data = load_dataset(f"MSD-Task{number:02d}", tmp_path)
    assert (data.name, data.in_channels) == (name, len(TASKS[name].channels))
    assert len(data.class_names) == CLASSES[number]
    assert open_dataset(name, tmp_path).splits == data.splits
    if number != 4:
        assert ids[0] in data.splits["validation"]
        assert data.splits["train"] == (ids[1],)
        assert len(data.splits["validation"]) == HELD_OUT[number]
    volume = data.load(ids[0])
    assert volume.image.shape[0] == len(TASKS[name].channels)
    assert volume.image.shape[1:] == volume.label.shape
    assert 0.0 <= volume.image.min() < volume.image.max() <= 1.0
    assert set(np.unique(volume.label)) == {0, 1}
    if number != 4:
        assert volume.spacing_mm == pytest.approx(TASKS[name].spacing_mm, abs=1e-6)
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    if TASKS[name].window:
        low, high = TASKS[name].window
        assert (volume.window.low, volume.window.high, volume.window.unit) == (low, high, "HU")
        assert volume.window.physical(8 / 255) == pytest.approx((high - low) * 8 / 255)


def test_a_held_out_case_that_is_not_there_is_refused(tmp_path):
    write_task(tmp_path, "spleen", [2, 10])
    data = open_dataset("spleen", tmp_path)
    with pytest.raises(
        DatasetError, match=r"case spleen_12: expected the file imagesTr/spleen_12.nii.gz, found nothing"
    ):
        data.load("spleen_12")
    assert data.load("spleen_10").id == "spleen_10"


def test_channels_have_windows_of_their_own_that_invert(tmp_path):
    (case,) = write_task(tmp_path, "brain_tumour", [3], np.diag([1.0, 1.0, 1.0, 1.0]))
    volume = open_dataset("brain_tumour", tmp_path).load(case)
    for channel in volume.image[1:]:
        np.testing.assert_allclose(channel, volume.image[0], atol=1e-5)
    stored = np.moveaxis(
        np.asarray(nib.load(tmp_path / f"Task01_BrainTumour/imagesTr/{case}.nii.gz").dataobj), -1, 0
    )
    inside = (volume.image > 0) & (volume.image < 1)
    np.testing.assert_allclose(volume.window.invert(volume.image)[inside], stored[inside], rtol=1e-4)
    np.testing.assert_allclose(volume.window.apply(stored), volume.image, atol=1e-5)
    per_channel = volume.window.physical(8 / 255)
    assert per_channel[2] == pytest.approx(700 * per_channel[0], rel=1e-4)


def test_splines_stay_in_plane_where_slices_are_thick(tmp_path):
    (case,) = write_task(tmp_path, "spleen", [10], np.diag([1.0, 1.0, 6.0, 1.0]))
    volume = open_dataset("spleen", tmp_path).load(case)
    image = np.asarray(nib.load(tmp_path / f"Task09_Spleen/imagesTr/{case}.nii.gz").dataobj)
    # Across slices the spline's neighbor is taken as it is: every output slice is one of the input's.
    from scipy import ndimage

    x, y = (np.arange(n) * 0.793 for n in volume.label.shape[:2])
    grid = np.meshgrid(x, y, indexing="ij")
    slices = [
        volume.window.apply(
            ndimage.map_coordinates(image[..., k].astype(float), grid, order=3, mode="nearest")
        )
        for k in range(image.shape[2])
    ]
    for k in range(volume.label.shape[2]):
        assert min(np.abs(volume.image[0, ..., k] - s).mean() for s in slices) < 0.01


def test_a_folder_of_another_task_is_refused(tmp_path):
    write_task(tmp_path, "spleen", [10])
    (tmp_path / "Task09_Spleen").rename(tmp_path / "Task05_Prostate")
    with pytest.raises(DatasetError, match=r"expected 2 channel\(s\) in Task05_Prostate"):
        open_dataset("prostate", tmp_path)


def test_download_asks_monai_and_keeps_what_is_there(tmp_path, monkeypatch):
    asked = []

    def fetch(root, task, section, **options):
        asked.append((task, section, options["download"]))
        write_task(tmp_path, "heart", [4])

    monkeypatch.setattr("monai.apps.datasets.DecathlonDataset", fetch)
    for _ in range(2):
        assert download("heart", tmp_path).name == "Task02_Heart"
    assert asked == [("Task02_Heart", "training", True)]


def test_a_failed_download_is_one_error(tmp_path, monkeypatch):
    def fetch(*_args, **_options):
        raise Exception("no route to host")

    monkeypatch.setattr("monai.apps.datasets.DecathlonDataset", fetch)
    with pytest.raises(DatasetError, match="no route to host"):
        download("heart", tmp_path)
