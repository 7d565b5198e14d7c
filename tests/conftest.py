"""Shared fixtures. Real volumes are read in place and their tests skip, with the reason, when they are absent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import nibabel as nib
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is imported: without a GPU its kernels run in Python.
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


# In CI the same examples every time, so that a change is judged by itself; elsewhere new ones at every run.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Workers that share the cores take one thread each: more of them only wait for one another."""
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with ``Task04_Hippocampus``: ``ROBUSTVOX_DATA``, or ``shared/data`` beside the clone."""
    for candidate in (os.environ.get("ROBUSTVOX_DATA"), REPOSITORY.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "Task04_Hippocampus" / "dataset.json").is_file():
            return Path(candidate)
    pytest.skip("no real volumes: set ROBUSTVOX_DATA to a folder that holds Task04_Hippocampus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` skip where there is no card."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Here and in processes that a test starts; whoever was put in the background by a script ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def write_case(
    root: Path, case_id: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray | None = None
) -> None:
    """Write one NIfTI pair in MSD layout."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    for folder, array in (("imagesTr", image), ("labelsTr", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), root / folder / f"{case_id}.nii.gz")


@pytest.fixture
def msd_folder(tmp_path: Path):
    """Factory of a small MSD folder: ``(cases) -> root`` with blobs brighter than their background."""

    def make(cases: int = 3, name: str = "toy") -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(0)
        ids = [f"case_{i:03d}" for i in range(cases)]
        for i, case_id in enumerate(ids):
            label = np.zeros((18 + i, 16, 15), np.uint8)
            label[4:9, 5:12, 4:10] = 1
            label[10:15, 5:12, 4:10] = 2
            image = rng.normal(100.0, 5.0, label.shape).astype(np.float32) + 60.0 * label
            write_case(root, case_id, image, label)
        meta = {
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "one", "2": "two"},
            "training": [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids],
        }
        (root / "dataset.json").write_text(json.dumps(meta))
        return root

    return make


@pytest.fixture
def write_bundle(tmp_path: Path):
    """Factory of MONAI bundle folders in the layout of the model zoo: ``(network, ...) -> folder``."""

    def make(
        network, definition, *, classes, name="spleen_ct", window=(16, 16, 16), metadata=None, config=None
    ):
        folder = tmp_path / name
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir(parents=True)
        image = {"type": "image", "format": "hounsfield", "num_channels": 1, "spatial_shape": list(window),
                 "value_range": [0, 1], "is_patch_data": True, "channel_def": {"0": "image"}}  # fmt: skip
        prediction = {"type": "image", "format": "segmentation", "num_channels": len(classes),
                      "channel_def": {str(i): c for i, c in enumerate(classes)}}  # fmt: skip
        meta = {
            "version": "0.5.6",
            "monai_version": "1.4.0",
            "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
            **(metadata or {}),
        }
        (folder / "configs" / "metadata.json").write_text(json.dumps(meta))
        inference = {
            "imports": ["$import glob", "$import os"],
            "bundle_root": ".",
            "output_dir": "$@bundle_root + '/eval'",
            "datalist": "$list(sorted(glob.glob(@bundle_root + '/imagesTs/*.nii.gz')))",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network_def": definition,
            "network": "$@network_def.to(@device)",
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "image"},
                    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164,
                     "b_min": 0, "b_max": 1, "clip": True},
                ],
            },
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(window), "overlap": 0.5},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
            },
            "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "amp": True},
            "run": ["$@evaluator.run()"],
            **(config or {}),
        }  # fmt: skip
        (folder / "configs" / "inference.json").write_text(json.dumps(inference))
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        return folder

    return make
