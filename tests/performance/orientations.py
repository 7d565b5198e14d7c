"""Real MR and CT, stored in all 48 axis orders and flips and in every layout: the same Dice and HD95 for every zoo model.

    python tests/performance/orientations.py --data-root DIR [--predict 3] [--layouts msd nnunet_v2 csv]

All 48 files of each volume are written and read, and the arrays that come in are compared bit by bit. ``--predict`` says
on how many of them every model is run and scored besides (48 for all; the first is as stored).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from robustvox.benchmark.metrics.scores import score
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.datasets import open_dataset
from robustvox.datasets.geometry import axes_of, turn
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

try:
    from ..datasets.layouts import Stored, write
except ImportError:  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets"))
    from layouts import Stored, write  # type: ignore[no-redef]

ORDERS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]

# TotalSegmentator's ids in the order of the phantom's classes
ORGANS = {
    "liver": 5,
    "spleen": 1,
    "right_kidney": 2,
    "left_kidney": 3,
    "aorta": 52,
    "stomach": 6,
    "gallbladder": 4,
}

DICE, HD95_MM = 1e-6, 1e-3
"""How far two orders may be apart."""


@dataclass(frozen=True)
class Source:
    """A real volume, and the folder of networks that are run on it."""

    name: str
    case: Stored
    labels: tuple[str, ...]
    modality: str
    zoo: Path


def sources(data_root: Path) -> Iterator[Source]:
    """One MR and the CT, as stored."""
    task = data_root / "Task04_Hippocampus"
    first = sorted(task.glob("imagesTr/h*.nii.gz"))[0]
    image, label = nib.load(first), nib.load(task / "labelsTr" / first.name)
    yield Source(
        "MR",
        Stored((np.asarray(image.dataobj),), np.asarray(label.dataobj), image.affine),
        ("background", "anterior", "posterior"),
        "MRI",
        ZOO / "hippocampus",
    )
    folder = data_root / "totalsegmentator_ct"
    image, segments = nib.load(folder / "ct.nii.gz"), np.asarray(nib.load(folder / "seg.nii.gz").dataobj)
    organs = np.zeros(segments.shape, np.uint8)
    for k, number in enumerate(ORGANS.values(), start=1):
        organs[segments == number] = k
    case = Stored((np.asarray(image.dataobj),), organs, image.affine)
    yield Source("CT", case, ("background", *ORGANS), "CT", ZOO / "phantom")


def spread(
    source: Source, layout: str, folder: Path, predict: int, models: Sequence[str] = ()
) -> Iterator[tuple[str, float, float]]:
    """Per model the largest difference of Dice and HD95 (mm) between the orders it was run on.

    Raises:
        ValueError: two orders give different arrays.
    """
    stored = {}
    for axes in ORDERS:
        image, affine = turn(source.case.channels[0], source.case.affine, axes)
        stored[axes] = Stored((image,), turn(source.case.label, source.case.affine, axes)[0], affine)
    data = open_dataset(write(layout, folder, stored, modality=(source.modality,), labels=source.labels))
    volumes = [data.load(axes) for axes in ORDERS]
    prints = {data_fingerprint(volume) for volume in volumes}
    if len(prints) != 1 or {axes_of(v.affine) for v in volumes} != {"RAS"}:
        raise ValueError(f"expected one volume from 48 files of {source.name} as {layout}, got {len(prints)}")
    step = max(len(ORDERS) // predict, 1)
    for file in sorted(source.zoo.glob("*.safetensors")):
        if models and file.stem not in models:
            continue
        loaded = load_checkpoint(file)
        window = SlidingWindow(loaded.network.eval(), loaded.card.roi_size, 0.5, 4)
        tables = []
        for volume in volumes[::step][:predict]:
            with torch.inference_mode():
                found = window(torch.from_numpy(volume.image)[None]).argmax(1)[0].numpy()
            table = score(found, volume.label, num_classes=len(source.labels), spacing_mm=volume.spacing_mm)
            tables.append(table[["dice", "hd95_mm"]].to_numpy())
        apart = np.nanmax(np.ptp(np.stack(tables), axis=0), axis=0)
        yield file.stem, float(apart[0]), float(apart[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--predict", type=int, default=3)
    parser.add_argument("--layouts", nargs="+", default=["msd", "nnunet_v1", "nnunet_v2", "datalist", "csv"])
    given = parser.parse_args()
    for source in sources(given.data_root):
        for layout in given.layouts:
            with tempfile.TemporaryDirectory() as folder:
                for model, dice, hd95 in spread(source, layout, Path(folder), given.predict):
                    good = dice <= DICE and hd95 <= HD95_MM
                    print(
                        f"{source.name} {layout} {model}: Dice {dice:.1e}, HD95 {hd95:.1e} mm apart"
                        f"{'' if good else '  TOO FAR'}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
