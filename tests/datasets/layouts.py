"""The same cases in every layout that a path may have, for tests of what is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

LABELS = ("background", "one", "two")


@dataclass(frozen=True)
class Stored:
    """One case as it lies on the disk: an image per channel, and a label."""

    channels: Sequence[np.ndarray]
    label: np.ndarray
    affine: np.ndarray
    unit: str = "mm"


def example(seed: int = 0, shape: tuple[int, ...] = (12, 14, 10), affine: np.ndarray | None = None) -> Stored:
    """Two blocks in noise, at 1 x 1 x 2 mm; no axis is like another."""
    label = np.zeros(shape, np.uint8)
    label[2:5, 3:9, 2:6] = 1
    label[7:10, 4:7, 3:9] = 2
    image = np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32) + 60 * label
    return Stored((image,), label, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)


def put(path: Path, array: np.ndarray, affine: np.ndarray, unit: str = "mm") -> None:
    """Write one NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


def write(
    layout: str,
    root: Path,
    cases: Mapping[str, Stored],
    *,
    modality: Sequence[str] = ("MRI",),
    labels: Sequence[str] = LABELS,
) -> Path:
    """Write cases in a layout; returns what is given to ``--dataset``."""
    return LAYOUTS[layout](root, cases, list(modality), list(labels))


def _single(root: Path, cases: Mapping[str, Stored], folder: str = "imagesTr") -> None:
    """One file with all channels, and a label."""
    for name, case in cases.items():
        image = case.channels[0] if len(case.channels) == 1 else np.stack(case.channels, -1)
        put(root / folder / f"{name}.nii.gz", image, case.affine, case.unit)
        put(root / "labelsTr" / f"{name}.nii.gz", case.label, case.affine, case.unit)


def _several(root: Path, cases: Mapping[str, Stored], folder: str = "imagesTr") -> None:
    """A file per channel, numbered, and a label."""
    for name, case in cases.items():
        for k, channel in enumerate(case.channels):
            put(root / folder / f"{name}_{k:04d}.nii.gz", channel, case.affine, case.unit)
        put(root / "labelsTr" / f"{name}.nii.gz", case.label, case.affine, case.unit)


def _entries(cases: Mapping[str, Stored], folder: str = "imagesTr") -> list[dict[str, str]]:
    return [{"image": f"./{folder}/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in cases]


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _msd(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _single(root, cases)
    meta = {"modality": dict(enumerate(modality)), "labels": dict(enumerate(labels))}
    _dump(root / "dataset.json", {**meta, "training": _entries(cases)})
    return root


def _first(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _several(root, cases)
    meta = {"modality": dict(enumerate(modality)), "labels": dict(enumerate(labels))}
    _dump(root / "dataset.json", {**meta, "training": _entries(cases)})
    return root


def _datalist(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _several(root, cases, "scans")
    training = [
        {
            "image": [f"scans/{n}_{k:04d}.nii.gz" for k in range(len(case.channels))],
            "label": f"labelsTr/{n}.nii.gz",
        }
        for n, case in cases.items()
    ]
    _dump(root / "list.json", {"modality": modality, "labels": dict(enumerate(labels)), "training": training})
    return root / "list.json"


def _nnunet(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _several(root, cases)
    meta = {"channel_names": dict(enumerate(modality)), "labels": {n: k for k, n in enumerate(labels)}}
    _dump(root / "dataset.json", {**meta, "numTraining": len(cases), "file_ending": ".nii.gz"})
    return root


def _keyed(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _several(root, cases, "elsewhere")
    listed = {
        n: {
            "images": [f"elsewhere/{n}_{k:04d}.nii.gz" for k in range(len(case.channels))],
            "label": f"labelsTr/{n}.nii.gz",
        }
        for n, case in cases.items()
    }
    meta = {"channel_names": dict(enumerate(modality)), "labels": {n: k for k, n in enumerate(labels)}}
    _dump(root / "dataset.json", {**meta, "file_ending": ".nii.gz", "dataset": listed})
    return root


def _csv(root: Path, cases: Mapping[str, Stored], modality: list[str], labels: list[str]) -> Path:
    _several(root, cases, "scans")
    rows = [
        f"{n},{';'.join(f'scans/{n}_{k:04d}.nii.gz' for k in range(len(case.channels)))},labelsTr/{n}.nii.gz"
        for n, case in cases.items()
    ]
    (root / "cohort.csv").write_text("\n".join(["id,image,label", *rows]) + "\n")
    _dump(root / "cohort.json", {"channels": modality, "labels": dict(enumerate(labels))})
    return root / "cohort.csv"


LAYOUTS: dict[str, Callable[[Path, Mapping[str, Stored], list[str], list[str]], Path]] = {
    "msd": _msd,
    "datalist": _datalist,
    "nnunet_v1": _first,
    "nnunet_v2": _nnunet,
    "nnunet_v2_listed": _keyed,
    "csv": _csv,
}
