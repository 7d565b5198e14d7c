"""A trained nnU-Net v2 model through us and through its own predictor, on the same stored files: Dice between the two.

    python tests/performance/nnunet_equivalence.py MODEL_FOLDER IMAGE.nii.gz... --fold all --orientations 6

Needs `nnunetv2`. Each volume is stored in several axis orders and flips, read by the plan's own reader on nnU-Net's side
and by our loader's rules on ours (turned to RAS, windowed to percentiles 0.5 and 99.5), and predicted by both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from robustvox.models.bring.nnunet import load
from robustvox.models.case import CaseSource

ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def dice(a: np.ndarray, b: np.ndarray, classes: int) -> list[float]:
    """Per foreground class; 1 where neither has it."""
    pairs = [(a == k, b == k) for k in range(1, classes)]
    return [2 * (x & y).sum() / (x.sum() + y.sum()) if (x | y).any() else 1.0 for x, y in pairs]


def source_of(image: nib.nifti1.Nifti1Image) -> CaseSource:
    canonical = nib.funcs.as_closest_canonical(image)
    original = np.ascontiguousarray(np.asarray(canonical.dataobj, np.float32))[None]
    low, high = (float(v) for v in np.percentile(original, (0.5, 99.5)))
    seen = np.clip((original - low) / (high - low), 0, 1).astype(np.float32)
    return CaseSource(
        id="case", affine=np.asarray(canonical.affine), stored_affine=np.asarray(image.affine), image=seen,
        original=original, low=(low,), high=(high,),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--orientations", type=int, default=6)
    given = parser.parse_args()
    labels = json.loads((given.folder / "dataset.json").read_text())["labels"]
    classes = len([name for name in labels if name != "ignore"])
    reader = json.loads((given.folder / "plans.json").read_text())["image_reader_writer"]
    model = load(given.folder, in_channels=1, num_classes=classes, fold=given.fold)
    theirs = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(given.folder), (given.fold,))
    assert model.predictor is not None
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "image.nii.gz"
        for path, how in itertools.product(given.images, ORIENTATIONS[:: max(48 // given.orientations, 1)]):
            image = nib.nifti1.load(path).as_reoriented(np.stack(how, 1).astype(float))
            nib.loadsave.save(image, file)
            started = time.perf_counter()
            array, properties = recursive_find_reader_writer_by_name(reader)().read_images([str(file)])
            reference = theirs.predict_single_npy_array(array, properties).transpose(2, 1, 0)
            middle = time.perf_counter()
            source = source_of(image)
            with torch.no_grad():
                ours = (
                    model.predictor.for_case(source)(torch.from_numpy(source.image)[None])
                    .argmax(1)[0]
                    .numpy()
                )
            if not reader.endswith("WithReorient"):
                change = ornt_transform(io_orientation(source.affine), io_orientation(image.affine))
                ours = apply_orientation(ours, change)
            took = f"nnU-Net {middle - started:.1f} s, ours {time.perf_counter() - middle:.1f} s"
            shown = np.round(dice(ours, reference, classes), 5)
            print(path.name, nib.orientations.aff2axcodes(image.affine), shown, took)


if __name__ == "__main__":
    main()
