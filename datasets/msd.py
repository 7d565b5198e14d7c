"""Case lists in JSON: the folders of the Medical Segmentation Decathlon, nnU-Net's first layout, MONAI's datalists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import DatasetError
from .counting import count_channels, count_classes
from .documents import read_json
from .entries import SHARE, Entry, arrange, case_id, slashes, split_ids
from .folder import CaseFolder
from .meta import Classes, channels_of, check_keys, classes_of
from .prepare import Preparation
from .windows import CT_WINDOW, is_ct, windows_of

__all__ = ["CT_WINDOW", "MSDFolder", "case_id", "open_datalist", "read_meta", "split_ids"]

LISTS = {
    "training": "",
    "train": "",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
"""Lists a file may have, and the split of their cases; without a validation list the training cases are split."""


class MSDFolder(CaseFolder):
    """Labelled cases of one MSD-style folder, on the voxel grid as stored (no resampling), turned to RAS.

    CT modalities are windowed to [-175, 250] HU, everything else by the 0.5 and 99.5 percentile of each
    volume and channel, because scanners differ by four orders of magnitude (0..255 to 0..1.7 million in
    the hippocampus task).

    Cases are split as ``dataset.json`` says: by a ``validation`` list, else by ``fold`` keys (the lowest is held
    out, every fold is a split of its own name), else by a hash. An ``image`` may be a list, a file per channel; one
    that is not there under its name but with nnU-Net's ``_0000`` is found.

    Args:
        root: folder that holds ``dataset.json``.
        name: key in records and folder below ``results/``.
        roi_size: default sliding window, voxels; () where the volumes decide.
        nsd_tolerance_mm: tolerance of the surface Dice, millimetres.
        validation: share of patients held out, or their number.
        split_seed: seed of :func:`~.entries.split_ids`.

    Raises:
        DatasetError: if ``dataset.json`` is missing or malformed.
    """

    def __init__(
        self,
        *,
        root: Path,
        name: str,
        roi_size: tuple[int, ...] = (),
        nsd_tolerance_mm: float = 1.0,
        validation: float | int = SHARE,
        split_seed: int = 0,
    ) -> None:
        meta, path = read_meta(Path(root)), Path(root) / "dataset.json"
        super().__init__(
            **_arguments(meta, path, Classes(*classes_of(meta["labels"], path)), validation, split_seed),
            name=name,
            roi_size=roi_size,
            nsd_tolerance_mm=nsd_tolerance_mm,
        )


def open_datalist(path: Path) -> CaseFolder:
    """A datalist as MONAI writes them: ``training``, ``validation``, ``test``, entries with a ``fold`` if wanted.

    Paths are relative to the file and stay inside its folder. ``labels`` and ``modality`` may be given as in an MSD
    ``dataset.json``; without them the classes and channels are counted in the files.

    Raises:
        DatasetError: a malformed list, or none.
    """
    meta = read_json(path)
    if "channel_names" in meta and not any(meta.get(key) for key in LISTS):
        raise DatasetError(
            f"expected a list of cases in {path}, found what nnU-Net's raw folders hold; give the folder {path.parent}"
        )
    check_keys(meta, path)
    _check_lists(meta, path)
    classes = classes_of(meta["labels"], path) if "labels" in meta else None
    return CaseFolder(
        **_arguments(meta, path, classes, SHARE, 0),
        name=path.stem.lower(),
        roi_size=(),
        nsd_tolerance_mm=1.0,
    )


def _arguments(
    meta: Mapping[str, Any],
    path: Path,
    classes: Classes | None,
    validation: float | int,
    seed: int,
) -> dict[str, Any]:
    """What both layouts have in common, as arguments of :class:`CaseFolder`."""
    root, channels = path.parent, _channels(meta, path)
    entries = [
        Entry(
            images=_images(root, image, len(channels)),
            label=slashes(entry["label"]),
            named_by=_named_by(image),
            split=_split(key, meta),
            fold=entry.get("fold"),
        )
        for key in LISTS
        for entry in meta.get(key) or ()
        if isinstance(entry, dict) and entry.get("label")
        for image in [_slashes(entry["image"])]
    ]
    found = arrange(entries, path.name, validation=validation, seed=seed)
    if classes is None:
        classes = Classes(count_classes(root, found.files, path.name))
    if not channels:
        channels = ("image",) * (1 if "labels" in meta else count_channels(root, found.files))
    return {
        "root": root,
        "class_names": classes.names,
        "ignore": classes.ignore,
        "files": found.files,
        "splits": found.splits,
        "faults": found.faults,
        "preparation": Preparation(window=windows_of(channels)),
        "channels": channels,
        "notes": {
            "source": str(meta.get("reference", "unknown")),
            "licence": str(meta.get("licence", meta.get("license", "unknown"))),
            "split": found.rule,
        },
    }


def _channels(meta: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Channel names. One text for lists of files means each of them, unless it is CT.

    Raises:
        DatasetError: one CT beside other files, whose channels it does not name.
    """
    channels = channels_of(meta, path)
    files = {
        len(entry["image"])
        for key in LISTS
        for entry in meta.get(key) or ()
        if isinstance(entry, dict) and isinstance(entry.get("image"), list)
    }
    said = meta.get("channel_names") or meta.get("modality") or meta.get("channels")
    if len(files) != 1 or files == {1} or not (said is None or isinstance(said, str)):
        return channels
    (number,) = files
    if channels and is_ct(channels[0]):
        raise DatasetError(
            f'expected a name for each of {number} channels as "modality" in {path}, found {channels[0]!r}; write '
            f'{{"0": "CT", "1": ...}}, only what is called CT is windowed in HU'
        )
    return (channels or ("image",)) * number


def _slashes(image: str | Sequence[str]) -> str | list[str]:
    return slashes(image) if isinstance(image, str) else [slashes(path) for path in image]


def _split(key: str, meta: Mapping[str, Any]) -> str:
    """The split of a list: training cases stay undecided where the file declares no validation list."""
    if LISTS[key]:
        return LISTS[key]
    return "train" if any(meta.get(k) for k, split in LISTS.items() if split == "validation") else ""


def _images(root: Path, image: str | Sequence[str], channels: int) -> tuple[str, ...]:
    """Files of an entry; nnU-Net's first layout lists ``a.nii.gz`` and stores ``a_0000.nii.gz`` per channel."""
    if not isinstance(image, str):
        return tuple(image)
    stem = image.removesuffix(".gz").removesuffix(".nii")
    ending = image[len(stem) :]
    if not ending or (root / image).is_file() or not (root / f"{stem}_0000{ending}").is_file():
        return (image,)
    return tuple(f"{stem}_{k:04d}{ending}" for k in range(max(channels, 1)))


def _named_by(image: str | Sequence[str]) -> str:
    """The path a case is called by: as listed, and of several channels the first without its number."""
    return image if isinstance(image, str) else re.sub(r"_0000(?=\.nii(\.gz)?$)", "", image[0])


def read_meta(root: Path) -> dict[str, Any]:
    """The checked ``dataset.json`` of an MSD folder; raises :class:`DatasetError`."""
    path = root / "dataset.json"
    meta = read_json(path)
    labels = meta.get("labels")
    if not isinstance(labels, dict) or set(labels) != {str(k) for k in range(len(labels))} or len(labels) < 2:
        raise DatasetError(
            f'expected "labels" {{"0": ..., "1": ...}} without gaps in {path}, found {str(labels)[:200]}; repair it'
        )
    _check_lists(meta, path)
    return meta


def _check_lists(meta: Mapping[str, Any], path: Path) -> None:
    """Every list holds image and label paths; a test list may hold images alone, which nobody can score."""
    entries = [(key, entry) for key in LISTS for entry in _list(meta, key, path)]
    wrong = [
        (key, entry)
        for key, entry in entries
        if not (LISTS[key] == "test" and (not isinstance(entry, dict) or not entry.get("label")))
        and not (
            isinstance(entry, dict)
            and _is_paths(entry.get("image"))
            and isinstance(entry.get("label"), str)
            and entry["label"]
            and (entry.get("fold") is None or type(entry["fold"]) is int)
        )
    ]
    if wrong:
        raise DatasetError(
            f'expected entries {{"image": path or paths, "label": path}}, if wanted with a whole "fold", in the '
            f'"{wrong[0][0]}" list of {path}, found {str(wrong[0][1])[:200]}; repair it'
        )
    if all(LISTS[key] == "test" and not isinstance(entry, dict) for key, entry in entries):
        raise DatasetError(
            f'expected a non-empty "training" list of image and label paths in {path}; repair it'
        )


def _list(meta: Mapping[str, Any], key: str, path: Path) -> Sequence[Any]:
    found = meta.get(key) or ()
    if not isinstance(found, list | tuple):
        raise DatasetError(f'expected a list as "{key}" in {path}, found {type(found).__name__}; repair it')
    return found


def _is_paths(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)
