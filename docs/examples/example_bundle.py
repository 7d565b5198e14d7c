"""A MONAI bundle and a folder of CT to try the commands on: the zoo's unet and four phantom cases, in HU."""

import json
from pathlib import Path

import nibabel
import torch

from robustvox.datasets import open_dataset
from robustvox.models import ZOO, load_checkpoint

phantom = open_dataset("phantom")
checkpoint = load_checkpoint(ZOO / "phantom" / "unet.safetensors")

bundle = Path("bundle")
for part in ("configs", "models"):
    (bundle / part).mkdir(parents=True, exist_ok=True)
torch.save(checkpoint.network.state_dict(), bundle / "models" / "model.pt")
classes = dict(enumerate(phantom.class_names))
metadata = {
    "monai_version": "1.5.0",
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "value_range": [0, 1]}},
        "outputs": {"pred": {"num_channels": len(classes), "channel_def": classes}},
    },
}
window = {"a_min": -175, "a_max": 250, "b_min": 0, "b_max": 1, "clip": True}
config = {
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(classes),
        "channels": [16, 32, 64, 96],
        "strides": [2, 2, 2],
        "num_res_units": 2,
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", **window},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [48, 32, 32], "overlap": 0.5},
}
(bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
(bundle / "configs" / "inference.json").write_text(json.dumps(config))

data = Path("ct")


def write(case):
    """Image in HU and label as NIfTI; the paths of both."""
    volume = phantom.load(case)
    pair = {"image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz"}
    for array, name in (
        (volume.window.invert(volume.image)[0], pair["image"]),
        (volume.label, pair["label"]),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, volume.affine), data / name)
    return pair


described = {
    "modality": {"0": "CT"},
    "labels": classes,
    "training": [write(case) for case in phantom.splits["train"][:1]],
    "validation": [write(case) for case in phantom.splits["validation"][:4]],
}
(data / "dataset.json").write_text(json.dumps(described))
