"""Real files through an nnU-Net folder: what nnU-Net's own predictor gives for the same file, all the way from the disk."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "bring"))
from test_nnunet_reading import PLAIN, RESIDUAL, write

from robustvox.benchmark.craft.named import predict
from robustvox.benchmark.plan.models import load_model
from robustvox.benchmark.specs.protocols import find_protocol
from robustvox.datasets import open_dataset
from robustvox.datasets.geometry import turn

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


@dataclass(frozen=True)
class Real:
    """A file, and a plan at another spacing than its own."""

    image: str
    channel: str
    scheme: str
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]


REAL = {
    # 3 mm cubes to slices of 5 mm; the patch is smaller than the volume in every axis.
    "CT": Real("totalsegmentator_ct/ct.nii.gz", "CT", "CTNormalization", (5.0, 3.6, 3.6), (16, 48, 64)),
    "MR": Real(
        "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz", "MRI", "ZScoreNormalization", (1.0, 1.0, 1.0),
        (24, 32, 24),
    ),
    # Slices of 10 mm over pixels of 1.6 mm: nnU-Net resamples plane by plane.
    "cine MR": Real(
        "ACDC/training/patient001/patient001_frame01.nii.gz", "MRI", "ZScoreNormalization", (8.0, 2.6, 2.6),
        (8, 64, 64),
    ),
}  # fmt: skip


def raw(root, stored, affine, channel):
    """The file in nnU-Net's raw layout, beside an empty label."""
    for part, name, array in (
        ("imagesTr", "a_0000", stored),
        ("labelsTr", "a", np.zeros(stored.shape, np.uint8)),
    ):
        (root / part).mkdir(parents=True)
        nib.loadsave.save(nib.nifti1.Nifti1Image(array, affine), root / part / f"{name}.nii.gz")
    labels = {"background": 0, "a": 1, "b": 2}
    meta = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(meta))
    return root / "imagesTr" / "a_0000.nii.gz"


@pytest.mark.parametrize("axes", ["LPS", "PIR"])
@pytest.mark.parametrize("kind", [PLAIN, RESIDUAL])
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_gives_what_nnunets_own_predictor_gives(
    data_root, tmp_path, record_property, name, kind, axes
):
    pytest.importorskip("nnunetv2", reason="the reference; pip install nnunetv2")
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    real = REAL[name]
    original = nib.nifti1.load(data_root / real.image)
    stored, affine = turn(np.asarray(original.dataobj), original.affine, axes)
    file = raw(tmp_path / "data", stored, affine, real.channel)
    folder = write(
        tmp_path / "model",
        kind,
        spacing=real.spacing,
        scheme=real.scheme,
        patch=real.patch,
        reader="SimpleITKIO",
    )
    theirs = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), ("0",))
    expected = theirs.predict_single_npy_array(*SimpleITKIO().read_images([str(file)]), None, None, False)

    data = open_dataset(tmp_path / "data")
    volume = data.load("a")
    model = load_model(str(folder), data, find_protocol("robustvox-1")).for_case(volume)
    found = predict(model, torch.from_numpy(volume.image)[None])
    assert volume.stored is not None
    assert volume.stored.axes == axes
    found, _ = turn(found, volume.affine, axes)
    for label in (1, 2):
        one, other = expected == label, found.transpose(2, 1, 0) == label
        dice = 2 * (one & other).sum() / (one.sum() + other.sum())
        record_property(f"class {label}", f"{one.mean():.1%} of the voxels, Dice between the two {dice:.6f}")
        assert one.mean() > 0.05
        assert dice >= 0.999
