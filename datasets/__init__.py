"""Datasets: named splits of volumes with class names, intensity window and spacing.

``DATASETS`` maps a name to a builder ``(data_root) -> Dataset``; a path to any folder with an MSD
``dataset.json`` needs no entry. The module imports nothing heavy, so listing it is instant.

Example:
    >>> from robustvox.datasets import open_dataset
    >>> phantom = open_dataset("phantom")
    >>> phantom.class_names[1]
    'liver'
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .base import CaseError, Dataset, DatasetError, IntensityWindow, Volume

if TYPE_CHECKING:
    from .msd import MSDFolder
    from .phantom import Phantom

__all__ = [
    "CATALOG",
    "DATASETS",
    "CaseError",
    "Dataset",
    "DatasetError",
    "IntensityWindow",
    "Volume",
    "open_dataset",
]


def _phantom(_data_root: Path | None = None) -> Phantom:
    from .phantom import Phantom

    return Phantom()


def _hippocampus(data_root: Path | None = None) -> MSDFolder:
    from .msd import MSDFolder

    root = _task_folder(data_root, "Task04_Hippocampus")
    # Every volume of the task fits one window of this size but for a few, and it suits all strides of 16.
    return MSDFolder(root=root, name="hippocampus", roi_size=(48, 64, 48), nsd_tolerance_mm=1.0)


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "phantom": _phantom,
    "hippocampus": _hippocampus,
}

CATALOG: dict[str, str] = {
    "phantom": "procedural abdominal CT, seven organs, embedded (the default)",
    "hippocampus": "MSD Task04, T1 MRI, anterior and posterior hippocampus (--data-root)",
}


def open_dataset(name: str | Path, data_root: str | Path | None = None) -> Dataset:
    """Open a dataset by registry name, or any folder that holds an MSD ``dataset.json``.

    Args:
        name: a key of ``DATASETS``, or a path.
        data_root: folder that holds the datasets' folders; the phantom needs none.

    Raises:
        DatasetError: unknown name, missing folder or malformed ``dataset.json``.
    """
    root = Path(data_root) if data_root is not None else None
    if str(name) in DATASETS:
        return DATASETS[str(name)](root)
    path = Path(name)
    if path.is_dir():
        from .msd import MSDFolder

        return MSDFolder(root=path, name=path.resolve().name.lower())
    raise DatasetError(f"expected one of {', '.join(DATASETS)} or a folder with dataset.json, found {name!r}")


def _task_folder(data_root: Path | None, folder: str) -> Path:
    if data_root is None:
        raise DatasetError(
            f"expected a folder with {folder}, found none; give --data-root DIR or set ROBUSTVOX_DATA"
        )
    for candidate in (data_root / folder, data_root):
        if (candidate / "dataset.json").is_file():
            return candidate
    raise DatasetError(f"expected {folder}/dataset.json below {data_root}, found none; correct --data-root")
