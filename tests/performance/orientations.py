"""Real volumes stored in all 48 axis orders and flips and in every layout: the same Dice and HD95 for every zoo model.

    python tests/performance/orientations.py --data-root DIR [--predict 4] [--layouts msd nnunet_v2 csv] [--only CT]

Three steps. All 48 files of a volume are written in every layout and read, and the arrays that come in must be one, bit by
bit: image, label, spacing. Every model is run on ``--predict`` of the 48 (48 for all) and the scores compared. The
prediction is then carried by nibabel to the axes of each of the 48 files, and scored there against the label as it
is stored, with the spacing of that file's header: nothing of our reading is used on that side.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import io_orientation, ornt_transform

from robustvox.benchmark.metrics.scores import score
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.datasets import Volume, open_dataset
from robustvox.datasets.geometry import axes_of, turn
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

try:
    from ..datasets.layouts import LAYOUTS, Stored, write
except ImportError:  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "datasets"))
    from layouts import LAYOUTS, Stored, write  # type: ignore[no-redef]

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


@dataclass(frozen=True)
class Spread:
    """How far the scores of one model lie apart.

    Args:
        model: its name.
        orders: on how many orders it was run.
        dice, hd95_mm: largest difference between the orders it was run on.
        stored_dice, stored_hd95_mm: the same between all 48, each scored along the axes of its file.
        lowest, highest: Dice of the classes that the volume holds.
    """

    model: str
    orders: int
    dice: float
    hd95_mm: float
    stored_dice: float
    stored_hd95_mm: float
    lowest: float
    highest: float

    @property
    def good(self) -> bool:
        return max(self.dice, self.stored_dice) <= DICE and max(self.hd95_mm, self.stored_hd95_mm) <= HD95_MM


def sources(data_root: Path) -> Iterator[Source]:
    """An MR and the CT with the models of their task, and an MR of unlike sides, as stored.

    The first two have cubic voxels, which would hide a spacing along the wrong axis. The third is a cardiac cine with
    slices of 10 mm; nobody's network here knows a heart, but what a network says of it may not depend on the axes.
    """
    task = data_root / "Task04_Hippocampus"
    first = sorted(task.glob("imagesTr/h*.nii.gz"))[0]
    names = ("background", "anterior", "posterior")
    yield Source("MR", _stored(first, task / "labelsTr" / first.name), names, "MRI", ZOO / "hippocampus")
    folder = data_root / "totalsegmentator_ct"
    case = _stored(folder / "ct.nii.gz", folder / "seg.nii.gz")
    organs = np.zeros(case.label.shape, np.uint8)
    for k, number in enumerate(ORGANS.values(), start=1):
        organs[case.label == number] = k
    case = replace(case, label=organs)
    yield Source("CT", case, ("background", *ORGANS), "CT", ZOO / "phantom")
    frame = data_root / "ACDC" / "training" / "patient001" / "patient001_frame01.nii.gz"
    case = _stored(frame, frame.with_name("patient001_frame01_gt.nii.gz"))
    case = replace(case, label=np.where(case.label > 2, 0, case.label).astype(np.uint8))
    yield Source("cine MR", case, ("background", "cavity", "wall"), "MRI", ZOO / "hippocampus")


def _stored(image: Path, label: Path) -> Stored:
    images, labels = nib.load(image), nib.load(label)
    return Stored((np.asarray(images.dataobj),), np.asarray(labels.dataobj), images.affine)


def read(source: Source, layout: str, folder: Path) -> list[Volume]:
    """The volume from 48 files of one layout.

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
    return volumes


def spread(
    source: Source, folder: Path, volumes: Sequence[Volume], predict: int, models: Sequence[str] = ()
) -> Iterator[Spread]:
    """Per model how far its scores are apart.

    Args:
        source: what was written.
        folder: whose ``labelsTr`` holds the 48 labels.
        volumes: what :func:`read` gave.
        predict: on how many of them a model is run.
        models: only these; all without it.
    """
    chosen = volumes[:: max(len(ORDERS) // predict, 1)][:predict]
    for file in sorted(source.zoo.glob("*.safetensors")):
        if models and file.stem not in models:
            continue
        loaded = load_checkpoint(file)
        window = SlidingWindow(loaded.network.eval(), loaded.card.roi_size, 0.5, 4)
        found = []
        for volume in chosen:
            with torch.inference_mode():
                logits = window(torch.from_numpy(volume.image)[None])
            found.append(logits.argmax(1)[0].numpy().astype(np.uint8))
        number = len(source.labels)
        tables = [
            _scores(prediction, volume.label, volume.spacing_mm, number)
            for prediction, volume in zip(found, chosen, strict=True)
        ]
        stored = [
            _as_stored(found[0], chosen[0].affine, folder / "labelsTr" / f"{axes}.nii.gz", number)
            for axes in ORDERS
        ]
        dice = tables[0][:, 0]
        yield Spread(
            file.stem,
            len(chosen),
            *_apart(tables),
            *_apart([tables[0], *stored]),
            float(np.nanmin(dice)),
            float(np.nanmax(dice)),
        )


def _scores(
    prediction: np.ndarray, label: np.ndarray, spacing_mm: Sequence[float], number: int
) -> np.ndarray:
    table = score(prediction, label, num_classes=number, spacing_mm=spacing_mm)
    return table[["dice", "hd95_mm"]].to_numpy()


def _as_stored(prediction: np.ndarray, affine: np.ndarray, file: Path, number: int) -> np.ndarray:
    """Scores along the axes of a label file."""
    label = nib.load(file)
    change = ornt_transform(io_orientation(affine), io_orientation(label.affine))
    turned = nib.Nifti1Image(prediction, affine).as_reoriented(change)
    return _scores(np.asarray(turned.dataobj), np.asarray(label.dataobj), label.header.get_zooms(), number)


def _apart(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    dice, hd95 = np.nanmax(np.ptp(np.stack(tables), axis=0), axis=0)
    return float(dice), float(hd95)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--predict", type=int, default=4)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--only", nargs="+", default=["MR", "CT", "cine MR"], help="volumes")
    given = parser.parse_args()
    for source in sources(given.data_root):
        if source.name not in given.only:
            continue
        prints = set()
        for layout in given.layouts:
            with tempfile.TemporaryDirectory() as folder:
                prints.add(data_fingerprint(read(source, layout, Path(folder))[0]))
        print(f"{source.name}: {len(prints)} volume from {len(given.layouts)} layouts x 48 files", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            volumes = read(source, given.layouts[0], Path(folder))
            for one in spread(source, Path(folder), volumes, given.predict):
                print(
                    f"{source.name} {one.model}: Dice {one.lowest:.3f} to {one.highest:.3f}; {one.orders} orders "
                    f"{one.dice:.1e} and {one.hd95_mm:.1e} mm apart, 48 as stored {one.stored_dice:.1e} and "
                    f"{one.stored_hd95_mm:.1e} mm{'' if one.good else '  TOO FAR'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
