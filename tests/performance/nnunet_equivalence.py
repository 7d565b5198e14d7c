"""A trained nnU-Net v2 model through us and through its own predictor: Dice between the two, per class.

    python tests/performance/nnunet_equivalence.py MODEL_FOLDER IMAGE.nii.gz... --fold all

Needs `nnunetv2`. Each volume is given to both on the same array, as stored, then tiled twice along every axis, so
that several windows are needed, and then with the clipping of our loader (percentiles 0.5 and 99.5) on our side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from robustvox.models.bring.nnunet import load


def dice(a: np.ndarray, b: np.ndarray, classes: int) -> list[float]:
    """Per foreground class; 1 where neither has it."""
    pairs = [(a == k, b == k) for k in range(1, classes)]
    return [2 * (x & y).sum() / (x.sum() + y.sum()) if (x | y).any() else 1.0 for x, y in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--fold", default="0")
    given = parser.parse_args()
    classes = len(json.loads((given.folder / "dataset.json").read_text())["labels"])
    model = load(given.folder, in_channels=1, num_classes=classes, fold=given.fold)
    ours = model.as_predictor(0.5, "gaussian", 1)
    theirs = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(given.folder), (given.fold,))

    def predict(values: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return ours(torch.from_numpy(values)[None, None]).argmax(1)[0].numpy()

    for path in given.images:
        image = nib.nifti1.load(path)
        stored = np.asarray(image.dataobj, dtype=np.float32)
        spacing = [float(s) for s in image.header.get_zooms()[::-1]]
        for what, values in (("as stored", stored), ("tiled", np.tile(stored, (2, 2, 2)))):
            unit = values / values.max()
            low, high = np.percentile(values, (0.5, 99.5))
            clipped = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
            zyx = np.ascontiguousarray(values.transpose(2, 1, 0))[None]
            reference = theirs.predict_single_npy_array(zyx, {"spacing": spacing}).transpose(2, 1, 0)
            same, cut = (dice(predict(v), reference, classes) for v in (unit, clipped))
            print(path.name, what, values.shape, "same array", np.round(same, 5), "clipped", np.round(cut, 5))


if __name__ == "__main__":
    main()
