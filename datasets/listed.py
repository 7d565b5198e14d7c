"""Folders of one's own: nnU-Net's raw layout, and a CSV of image and label paths."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .base import CaseError, DatasetError
from .folder import CaseFolder
from .msd import CT_WINDOW, case_id, split_ids
from .nifti import CaseFiles, inside, read_array
from .prepare import Preparation

SHARE = 0.2
"""Of cases held out when nobody says which."""


def is_nnunet(root: Path) -> bool:
    """Whether a folder's ``dataset.json`` is nnU-Net's version 2 (no case list, ``channel_names``)."""
    try:
        meta = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and "channel_names" in meta and "training" not in meta


def open_nnunet(root: Path) -> CaseFolder:
    """A folder in nnU-Net's raw layout: ``imagesTr/CASE_0000.nii.gz`` per channel, ``labelsTr/CASE.nii.gz``.

    The split is fold 0 of ``splits_final.json`` where the folder holds one, else the sha256 rule of
    :func:`~.msd.split_ids`. Volumes are turned to RAS on the grid as stored.

    Raises:
        DatasetError: a malformed ``dataset.json`` or ``splits_final.json``, regions instead of labels, or no image.
    """
    path = root / "dataset.json"
    meta = _json(path)
    names, channels = meta.get("labels"), meta.get("channel_names")
    ending = meta.get("file_ending", ".nii.gz")
    if (
        not isinstance(channels, dict)
        or set(channels) != {str(k) for k in range(len(channels))}
        or not channels
    ):
        raise DatasetError(f'expected "channel_names" {{"0": ...}} in {path}, found {channels}; repair it')
    if ending not in (".nii.gz", ".nii"):
        raise DatasetError(
            f'expected "file_ending" .nii.gz or .nii in {path}, found {ending!r}; convert the files'
        )
    class_names = _classes(names, path)
    files: dict[str, CaseFiles] = {}
    pattern = re.compile(r"(.+)_(\d{4})" + re.escape(ending))
    listed = sorted(p.name for p in (root / "imagesTr").glob(f"*{ending}"))
    for match in filter(None, map(pattern.fullmatch, listed)):
        _expect(files, match.group(1), len(channels), ending)
    if not files:
        raise DatasetError(f"expected imagesTr/CASE_0000{ending} in {root}, found none; complete the folder")
    for label in sorted(p.name for p in (root / "labelsTr").glob(f"*{ending}")):
        _expect(files, label.removesuffix(ending), len(channels), ending)
    splits, rule = _splits(root, files)
    for case in (*splits["train"], *splits["validation"]):
        _expect(files, case, len(channels), ending)
    return _folder(
        root, root.resolve().name.lower(), class_names, files, splits, tuple(channels.values()), rule, meta
    )


def open_csv(path: Path) -> CaseFolder:
    """Cases of a CSV with columns ``image`` and ``label``, and if wanted ``id`` and ``split``.

    Paths are relative to the CSV and stay inside its folder; several files of one case (a channel each) are
    separated by ``;``. A JSON of the same name beside it may give ``labels`` (``{"0": "background", ...}``) and
    ``channels`` (``["CT"]``); without it every label is read once to count the classes. In place of ``labels`` it may
    give ``keep`` (``{"5": "liver", "1": "spleen"}``): these ids of the files become classes 1, 2, ... in this order,
    and all others background.

    Raises:
        DatasetError: an unreadable CSV, one without the columns, or without rows.
    """
    rows = _rows(path)
    root, side = path.resolve().parent, path.with_suffix(".json")
    meta = _json(side) if side.is_file() else {}
    ids = [row.get("id") or re.sub(r"_0000$", "", case_id(row["image"].split(";")[0])) for row in rows]
    files = {
        case: CaseFiles(tuple(p.strip() for p in row["image"].split(";")), row["label"].strip())
        for case, row in zip(ids, rows, strict=True)
    }
    faults = {
        case: CaseError(
            case, "one row per case", f"{n} in {path.name}", "remove the copies or add a column id"
        )
        for case, n in Counter(ids).items()
        if n > 1
    }
    channels = tuple(map(str, meta.get("channels", ()))) or ("image",) * _count_channels(root, files)
    relabel = _kept(meta["keep"], side) if "keep" in meta else None
    if relabel is not None:
        class_names = ("background", *map(str, meta["keep"].values()))
    else:
        class_names = _classes(meta["labels"], side) if "labels" in meta else _count_classes(root, files)
    wanted = [(row.get("split") or "").strip().lower() for row in rows]
    if any(wanted):
        named = {
            "train": "train",
            "training": "train",
            "validation": "validation",
            "val": "validation",
            "test": "test",
        }
        splits: dict[str, tuple[str, ...]] = {"train": (), "validation": ()}
        for case, name in zip(ids, wanted, strict=True):
            if name not in named:
                raise DatasetError(
                    f"expected split train, validation or test of case {case} in {path}, found {name!r}; correct it"
                )
            key = named[name]
            splits[key] = tuple(dict.fromkeys((*splits.get(key, ()), case)))
        splits, rule = {**splits, "all": tuple(files)}, f"column split of {path.name}"
    else:
        splits, rule = split_ids(list(files), SHARE, 0), _rule()
    folder = _folder(root, path.stem.lower(), class_names, files, splits, channels, rule, meta, faults)
    if relabel is None:
        return folder
    kept = ", ".join(f"{key} {name}" for key, name in meta["keep"].items())
    return replace(folder, relabel=relabel, notes={**folder.notes, "labels": f"of the files: {kept}"})


def _folder(
    root: Path,
    name: str,
    class_names: tuple[str, ...],
    files: Mapping[str, CaseFiles],
    splits: Mapping[str, tuple[str, ...]],
    channels: tuple[str, ...],
    rule: str,
    meta: Mapping[str, Any],
    faults: Mapping[str, CaseError] | None = None,
) -> CaseFolder:
    ct = any("CT" in str(channel).upper().split() for channel in channels)
    return CaseFolder(
        root=root,
        name=name,
        class_names=class_names,
        files=files,
        splits=splits,
        preparation=Preparation(window=CT_WINDOW if ct else None),
        channels=tuple(map(str, channels)),
        nsd_tolerance_mm=1.0,
        notes={
            "source": str(meta.get("reference", "unknown")),
            "licence": str(meta.get("licence", meta.get("license", "unknown"))),
            "split": rule,
        },
        faults=faults or {},
    )


def _expect(files: dict[str, CaseFiles], case: str, channels: int, ending: str) -> None:
    """List a case under the names its files should have; what is missing is said when it is loaded."""
    images = tuple(f"imagesTr/{case}_{k:04d}{ending}" for k in range(channels))
    files.setdefault(case, CaseFiles(images, f"labelsTr/{case}{ending}"))


def _rule() -> str:
    return f"sha256 order, seed 0, validation share {SHARE}"


def _splits(root: Path, files: Mapping[str, CaseFiles]) -> tuple[dict[str, tuple[str, ...]], str]:
    path = root / "splits_final.json"
    if not path.is_file():
        return split_ids(list(files), SHARE, 0), _rule()
    try:
        fold = json.loads(path.read_text(encoding="utf-8"))[0]
        splits = {
            "train": tuple(fold["train"]),
            "validation": tuple(fold["val"]),
            "all": tuple(sorted(files)),
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f'expected a list of {{"train", "val"}} in {path}, found {error!r}; repair it'
        ) from error
    return splits, "fold 0 of splits_final.json"


def _classes(labels: Any, path: Path) -> tuple[str, ...]:
    """Class names by id, from MSD's ``{"0": name}`` or nnU-Net's ``{name: 0}``."""
    if isinstance(labels, dict) and all(isinstance(k, str) and k.isdigit() for k in labels):
        labels = {str(name): int(k) for k, name in labels.items()}
    whole = isinstance(labels, dict) and all(
        isinstance(v, int) and not isinstance(v, bool) for v in labels.values()
    )
    if (
        not whole
        or sorted(labels.values()) != list(range(len(labels)))
        or len(labels) < 2
        or "ignore" in labels
    ):
        raise DatasetError(
            f'expected "labels" {{name: id}} with ids 0..K without gaps, regions or ignore in {path}, found {labels}; '
            "convert the labels"
        )
    return tuple(sorted(labels, key=lambda name: labels[name]))


def _json(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"expected JSON in {path}, found {error}; repair the file") from error
    if not isinstance(meta, dict):
        raise DatasetError(f"expected a JSON object in {path}, found {type(meta).__name__}; repair the file")
    return meta


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            rows = [row for row in reader if any(row.values())]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"expected a CSV at {path}, found {error}; repair it") from error
    if not {"image", "label"} <= set(columns) or not rows:
        raise DatasetError(
            f"expected columns image and label and a row in {path}, found columns {columns} and {len(rows)} rows; "
            "add them"
        )
    for number, row in enumerate(rows, start=2):
        if not row["image"] or not row["label"]:
            raise DatasetError(
                f"expected image and label in line {number} of {path}, found {row}; complete it"
            )
    return rows


def _count_channels(root: Path, files: Mapping[str, CaseFiles]) -> int:
    """Channels of the first case that can be read; a case of another number is refused when loaded."""
    for case, entry in files.items():
        first, *further = entry.images
        if further:
            return 1 + len(further)
        try:
            array, _, _ = read_array(inside(root, first, case), case)
        except CaseError:
            continue
        return int(array.shape[-1]) if array.ndim == 4 else 1
    return 1


def _count_classes(root: Path, files: Mapping[str, CaseFiles]) -> tuple[str, ...]:
    """Names ``class_1`` ... up to the highest id of any readable label."""
    highest = 1
    for case, entry in files.items():
        try:
            array, _, _ = read_array(inside(root, entry.label, case), case)
        except CaseError:
            continue
        if array.size and np.isfinite(array).all():
            highest = max(highest, min(int(np.rint(array.max())), 255))
    return ("background", *(f"class_{k}" for k in range(1, highest + 1)))


def _kept(keep: Any, path: Path) -> dict[int, int]:
    """Ids of the label files to class ids, in the order they are listed."""
    if not isinstance(keep, dict) or not keep or not all(str(key).isdigit() and int(key) > 0 for key in keep):
        raise DatasetError(
            f'expected "keep" {{"5": "liver", ...}} with ids from 1 in {path}, found {keep}; correct it'
        )
    if len(set(map(str, keep.values()))) != len(keep):
        raise DatasetError(
            f"expected a name of its own for each kept class in {path}, found {keep}; correct it"
        )
    return {int(key): number for number, key in enumerate(keep, start=1)}
