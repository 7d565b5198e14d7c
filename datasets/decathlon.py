"""The ten tasks of the Medical Segmentation Decathlon (CC-BY-SA 4.0), prepared with the statistics of ROG.

Hippocampus is the one exception: it is read on the grid as stored and split by :func:`~.msd.split_ids`, since the
committed records rest on that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import split_lists
from .base import DatasetError, IntensityWindow
from .folder import CaseFolder
from .msd import MSDFolder, case_id, read_meta
from .nifti import CaseFiles
from .prepare import Preparation


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: folder, grid and window. ``window`` is in HU; ``None`` maps each channel by its percentiles."""

    number: int
    folder: str
    channels: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    nsd_tolerance_mm: float
    about: str
    window: tuple[float, float] | None = None


TASKS: Mapping[str, Task] = {
    task.folder.split("_")[1].lower().replace("hepaticvessel", "hepatic_vessel").replace("tumour", "_tumour"): task
    for task in (
        Task(number=1, folder="Task01_BrainTumour", channels=("FLAIR", "T1w", "T1gd", "T2w"),
             spacing_mm=(1.0, 1.0, 1.0), nsd_tolerance_mm=5.0, about="4-channel MRI, edema and tumor"),
        Task(number=2, folder="Task02_Heart", channels=("MRI",),
             spacing_mm=(1.25, 1.25, 1.37), nsd_tolerance_mm=4.0, about="MRI, left atrium"),
        Task(number=3, folder="Task03_Liver", channels=("CT",), window=(-45.0, 202.0),
             spacing_mm=(0.768, 0.768, 1.0), nsd_tolerance_mm=7.0, about="CT, liver and tumor"),
        Task(number=4, folder="Task04_Hippocampus", channels=("MRI",),
             spacing_mm=(1.0, 1.0, 1.0), nsd_tolerance_mm=1.0, about="T1 MRI, anterior and posterior hippocampus"),
        Task(number=5, folder="Task05_Prostate", channels=("T2", "ADC"),
             spacing_mm=(0.625, 0.625, 3.6), nsd_tolerance_mm=4.0, about="2-channel MRI, two zones"),
        Task(number=6, folder="Task06_Lung", channels=("CT",), window=(-1024.0, 327.0),
             spacing_mm=(0.785, 0.785, 1.245), nsd_tolerance_mm=2.0, about="CT, tumor"),
        Task(number=7, folder="Task07_Pancreas", channels=("CT",), window=(-99.0, 218.0),
             spacing_mm=(0.804, 0.804, 2.5), nsd_tolerance_mm=5.0, about="CT, pancreas and tumor"),
        Task(number=8, folder="Task08_HepaticVessel", channels=("CT",), window=(-6.0, 268.0),
             spacing_mm=(0.799, 0.799, 5.0), nsd_tolerance_mm=3.0, about="CT, vessels and tumor"),
        Task(number=9, folder="Task09_Spleen", channels=("CT",), window=(-40.0, 176.0),
             spacing_mm=(0.793, 0.793, 5.0), nsd_tolerance_mm=3.0, about="CT, spleen"),
        Task(number=10, folder="Task10_Colon", channels=("CT",), window=(-31.0, 165.0),
             spacing_mm=(0.781, 0.781, 5.0), nsd_tolerance_mm=4.0, about="CT, tumor"),
    )
}  # fmt: skip
"""By plain name. Spacing and HU window (0.5 and 99.5 percentile of the training set) are ROG's."""


def open_task(name: str, data_root: Path | None) -> CaseFolder | MSDFolder:
    """Open a task by its plain name below ``data_root`` (or when ``data_root`` is the task's folder itself).

    Raises:
        DatasetError: nothing there (the message says how to obtain it), or a ``dataset.json`` of something else.
    """
    task = TASKS[name]
    root = task_folder(data_root, task)
    if task.number == 4:
        # Every volume of the task fits one window of this size but for a few, and it suits all strides of 16.
        return MSDFolder(root=root, name=name, roi_size=(48, 64, 48), nsd_tolerance_mm=task.nsd_tolerance_mm)
    meta = read_meta(root)
    if max(len(meta.get("modality", {})), 1) != len(task.channels):
        raise DatasetError(
            f"expected {len(task.channels)} channel(s) in {task.folder}, found {meta.get('modality')} in "
            "dataset.json; put the right task there"
        )
    files = {case_id(e["image"]): CaseFiles((e["image"],), e["label"]) for e in meta["training"]}
    validation = _validation(task, files)
    labels = meta["labels"]
    return CaseFolder(
        root=root,
        name=name,
        class_names=tuple(str(labels[str(k)]) for k in range(len(labels))),
        files=files,
        splits={
            "train": tuple(sorted(set(files) - set(validation))),
            "validation": validation,
            "all": tuple(sorted(files)),
        },
        preparation=Preparation(
            spacing_mm=task.spacing_mm,
            interpolation="spline",
            window=IntensityWindow(*task.window, "HU") if task.window else None,
        ),
        channels=task.channels,
        nsd_tolerance_mm=task.nsd_tolerance_mm,
        notes={
            "source": f"Medical Segmentation Decathlon, {task.folder}",
            "licence": "CC-BY-SA 4.0",
            "split": "validation cases of ROG fold 0, all others for training",
        },
    )


def _validation(task: Task, files: dict[str, CaseFiles]) -> tuple[str, ...]:
    """The published cases; one that ``dataset.json`` lacks stays listed under the file name it should have."""
    by_number = {int(m.group()): case for case in files if (m := re.search(r"\d+$", case))}
    # The archives number with three digits, but for liver and spleen and the like, which do not pad.
    example = next(iter(files))
    stem = re.sub(r"\d+$", "", example)
    padded = any(re.search(r"_0\d+$", case) for case in files)
    ids = []
    for number in split_lists.numbers(split_lists.ROG_VALIDATION[task.number]):
        case = by_number.get(number, f"{stem}{number:03d}" if padded else f"{stem}{number}")
        files.setdefault(case, CaseFiles((f"imagesTr/{case}.nii.gz",), f"labelsTr/{case}.nii.gz"))
        ids.append(case)
    return tuple(sorted(ids))


def task_folder(data_root: Path | None, task: Task) -> Path:
    """The task's folder, or a :class:`DatasetError` that says how to obtain it."""
    get = (
        f"download {task.folder}.tar from medicaldecathlon.com and unpack it below --data-root, or let "
        f"`python -m benchmark data --dataset msd_task{task.number:02d} --data-root DIR --download` do it"
    )
    if data_root is None:
        raise DatasetError(
            f"expected a folder with {task.folder}, found none; give --data-root DIR or set ROBUSTVOX_DATA; {get}"
        )
    for candidate in (data_root / task.folder, data_root):
        if (candidate / "dataset.json").is_file():
            return candidate
    raise DatasetError(
        f"expected {task.folder}/dataset.json below {data_root}, found none; correct --data-root, or {get}"
    )


def download(name: str, data_root: Path) -> Path:
    """Fetch a task with MONAI's ``DecathlonDataset``, which checks the archive's MD5, and return its folder.

    A task that is already there is left as it is.

    Raises:
        DatasetError: no network, a broken archive or no room.
    """
    from monai.apps.datasets import DecathlonDataset

    task = TASKS[name]
    if (data_root / task.folder / "dataset.json").is_file():
        return data_root / task.folder
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        DecathlonDataset(str(data_root), task.folder, "training", download=True, cache_num=0, num_workers=0)
    # MONAI raises the bare class when there is no network.
    except Exception as error:
        raise DatasetError(
            f"expected to download {task.folder}, found {_short(error)}; "
            "download it by hand from medicaldecathlon.com"
        ) from error
    return task_folder(data_root, task)


def _short(error: Exception) -> str:
    """The first line of an error that quotes another at length."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]
