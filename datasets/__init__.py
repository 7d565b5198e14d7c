"""Datasets: named splits of volumes with class names, intensity window and spacing.

``DATASETS`` maps a name to a builder ``(data_root) -> Dataset``; a path to any folder with an MSD
``dataset.json`` or in nnU-Net's raw layout, or to a CSV of image and label paths, needs no entry. The module
imports nothing heavy, so listing it is instant.

Example:
    >>> from robustvox.datasets import open_dataset
    >>> phantom = open_dataset("phantom")
    >>> phantom.class_names[1]
    'liver'
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import (
    CaseError,
    ChannelWindows,
    Dataset,
    DatasetError,
    IntensityWindow,
    Volume,
    channel_names_of,
    patient_of,
)

if TYPE_CHECKING:
    from .folder import CaseFolder
    from .msd import MSDFolder
    from .phantom import Phantom
    from .scanner import ScannerShift

__all__ = [
    "ALIASES",
    "CATALOG",
    "DATASETS",
    "REGISTERED",
    "TASK_NAMES",
    "CaseError",
    "ChannelWindows",
    "Dataset",
    "DatasetError",
    "IntensityWindow",
    "ScannerShift",
    "Volume",
    "channel_names_of",
    "open_dataset",
    "patient_of",
]


def _phantom(_data_root: Path | None = None) -> Phantom:
    from .phantom import Phantom

    return Phantom()


def _task(name: str, data_root: Path | None = None) -> CaseFolder | MSDFolder:
    from .decathlon import open_task

    return open_task(name, data_root)


def _registered(name: str, data_root: Path | None = None, *, as_published: bool = False) -> CaseFolder:
    from .published import PUBLISHED, VARIANTS

    return {**PUBLISHED, **VARIANTS}[name]().open(data_root, as_published=as_published)


TASK_NAMES = (
    "brain_tumour", "heart", "liver", "hippocampus", "prostate", "lung", "pancreas", "hepatic_vessel", "spleen",
    "colon",
)  # fmt: skip
"""The tasks of the Medical Segmentation Decathlon in their order, 1 to 10."""

REGISTERED = ("btcv", "acdc", "hecktor", "flare22")
"""Datasets of arXiv 2406.08486; their files need a registration."""

LIGHT = ("acdc_light",)
"""Light preparations of the same cases, for CPUs."""

DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "phantom": _phantom,
    **{name: partial(_task, name) for name in TASK_NAMES},
    **{name: partial(_registered, name) for name in (*REGISTERED, *LIGHT)},
}

CATALOG: dict[str, str] = {
    "phantom": "procedural abdominal CT, seven organs, embedded (the default)",
    "hippocampus": "MSD Task04, T1 MRI, anterior and posterior hippocampus (--data-root)",
    "brain_tumour": "MSD Task01, MRI of 4 channels, edema and tumor (--data-root)",
    "heart": "MSD Task02, MRI, left atrium (--data-root)",
    "liver": "MSD Task03, CT, liver and tumor (--data-root)",
    "prostate": "MSD Task05, MRI of 2 channels, two zones (--data-root)",
    "lung": "MSD Task06, CT, tumor (--data-root)",
    "pancreas": "MSD Task07, CT, pancreas and tumor (--data-root)",
    "hepatic_vessel": "MSD Task08, CT, vessels and tumor (--data-root)",
    "spleen": "MSD Task09, CT, spleen (--data-root)",
    "colon": "MSD Task10, CT, tumor (--data-root)",
    "btcv": "abdominal CT, 13 organs, 18/12 split (--data-root, registration)",
    "acdc": "cardiac cine MRI, 3 structures, 140/20 frames (--data-root, registration)",
    "acdc_light": "the same frames at 2.5 x 2.5 x 5 mm in 64 x 64 x 32 voxels, for CPUs (--data-root, registration)",
    "hecktor": "head and neck CT, 2 tumor classes, 444/79 split (--data-root, registration)",
    "flare22": "abdominal CT, 13 organs, 50/50 split (--data-root, registration)",
}

ALIASES: dict[str, str] = {
    **{f"msd_task{number:02d}": name for number, name in enumerate(TASK_NAMES, start=1)},
    "brain_tumor": "brain_tumour",
    "synapse": "btcv",
    "abdomen": "flare22",
}
"""Other names of the same datasets; records carry the name they stand for."""


def open_dataset(
    name: str | Path, data_root: str | Path | None = None, *, as_published: bool = False
) -> Dataset:
    """Open a dataset by registry name, a folder (MSD or nnU-Net raw layout), or a CSV of image and label paths.

    Args:
        name: a key of ``DATASETS`` or ``ALIASES``, or a path.
        data_root: folder that holds the datasets' folders; the phantom needs none.
        as_published: prepare volumes as arXiv 2406.08486 did, faults included (CT window on MRI, padding before
            windowing); only for the datasets it used.

    Raises:
        DatasetError: unknown name, missing folder, malformed list, or ``as_published`` where nothing is.
    """
    root = Path(data_root) if data_root is not None else None
    key = ALIASES.get(str(name), str(name))
    if as_published:
        if key not in REGISTERED:
            raise DatasetError(f"expected one of {', '.join(REGISTERED)} with as_published, found {name!r}")
        return _registered(key, root, as_published=True)
    if key in DATASETS:
        return DATASETS[key](root)
    path = Path(name)
    if path.is_dir():
        from .listed import is_nnunet, open_nnunet
        from .msd import MSDFolder

        if is_nnunet(path):
            return open_nnunet(path)
        return MSDFolder(root=path, name=path.resolve().name.lower())
    if path.suffix.lower() == ".json" and path.is_file():
        from .msd import open_datalist

        return open_datalist(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        from .listed import open_csv

        return open_csv(path)
    raise DatasetError(
        f"expected one of {', '.join(DATASETS)}, a folder with dataset.json, a datalist (.json) or a CSV of "
        f"image and label paths, "
        f"found {name!r}"
    )


def __getattr__(name: str) -> Any:
    if name == "ScannerShift":
        from .scanner import ScannerShift

        return ScannerShift
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
