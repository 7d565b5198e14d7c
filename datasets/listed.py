"""Folders of one's own: nnU-Net's raw layout, and a CSV of image and label paths."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .base import CaseError, DatasetError
from .counting import count_channels, count_classes
from .documents import read_any, read_bytes, read_json
from .entries import FOLD, SHARE, Entry, arrange, is_hidden, slashes, split_ids
from .folder import CaseFolder
from .folds import SPLITS, Fold, five_folds, read_folds
from .meta import Classes, channels_of, check_keys, classes_of
from .nifti import CaseFiles
from .prepare import Preparation
from .schemas import CASES, CHANNELS
from .windows import windows_of

_SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}


def is_nnunet(root: Path) -> bool:
    """Whether a folder's ``dataset.json`` is nnU-Net's version 2 (``channel_names``, no case list it would use)."""
    try:
        meta = read_any(root / "dataset.json")
    except DatasetError:
        return False
    # Converted folders may keep the list of version 1, which version 2 does not read.
    return (
        isinstance(meta, dict)
        and "channel_names" in meta
        and ("training" not in meta or "file_ending" in meta)
    )


def open_nnunet(root: Path) -> CaseFolder:
    """A folder in nnU-Net's raw layout: ``imagesTr/CASE_0000.nii.gz`` per channel, ``labelsTr/CASE.nii.gz``.

    Where ``dataset.json`` has the key ``dataset``, the files are those it lists. The split is fold 0 of
    ``splits_final.json`` where the folder holds one, else the sha256 rule of :func:`~.entries.split_ids`. The
    validation cases of every fold are a split ``fold_0``, ``fold_1`` ... of its own; without the file they are those
    of nnU-Net's own five folds. Hidden files are left out. Volumes are turned to RAS on the grid as stored.

    Raises:
        DatasetError: a malformed ``dataset.json`` or ``splits_final.json``, regions instead of labels, or no image.
    """
    path = root / "dataset.json"
    meta = read_json(path)
    channels, ending = (
        channels_of({"channel_names": meta.get("channel_names")}, path),
        meta.get("file_ending", ".nii.gz"),
    )
    if not channels:
        raise DatasetError(f'expected "channel_names" {{"0": ...}} in {path}, found none; repair it')
    if ending not in (".nii.gz", ".nii"):
        raise DatasetError(
            f'expected "file_ending" .nii.gz or .nii in {path}, found {ending!r}; convert the files'
        )
    classes = classes_of(meta.get("labels"), path)
    listed = meta.get("dataset")
    files = _listed(listed) if listed else _found(root, len(channels), ending)
    splits, rule, declared = _splits(root, files)
    for case in declared:
        _expect(files, case, len(channels), ending)
    return _folder(root, root.resolve().name.lower(), classes, files, splits, channels, rule, meta)


def _listed(listed: Mapping[str, Any]) -> dict[str, CaseFiles]:
    """Files of the key ``dataset``, by case."""
    return {
        str(case): CaseFiles(tuple(map(slashes, entry["images"])), slashes(entry["label"]))
        for case, entry in sorted(listed.items())
        if not is_hidden(slashes(entry["images"][0]))
    }


def _found(root: Path, channels: int, ending: str) -> dict[str, CaseFiles]:
    """Files of ``imagesTr`` and ``labelsTr``, by case."""
    files: dict[str, CaseFiles] = {}
    pattern = re.compile(r"(.+)_(\d{4})" + re.escape(ending))
    images, labels = (
        sorted(p.name for p in (root / folder).glob(f"*{ending}") if not is_hidden(p.name))
        for folder in ("imagesTr", "labelsTr")
    )
    for match in filter(None, map(pattern.fullmatch, images)):
        _expect(files, match.group(1), channels, ending)
    if not files:
        others = sorted(p.name for p in (root / "imagesTr").glob("*") if not is_hidden(p.name))
        found = f"none among {len(others)} files such as {others[0]}" if others else "none"
        raise DatasetError(
            f'expected imagesTr/CASE_0000{ending} ("file_ending" of dataset.json) in {root}, found {found}; complete the '
            "folder or correct the ending"
        )
    for label in labels:
        _expect(files, label.removesuffix(ending), channels, ending)
    return files


def _expect(files: dict[str, CaseFiles], case: str, channels: int, ending: str) -> None:
    """List a case under the names its files should have; what is missing is said when it is loaded."""
    images = tuple(f"imagesTr/{case}_{k:04d}{ending}" for k in range(channels))
    files.setdefault(case, CaseFiles(images, f"labelsTr/{case}{ending}"))


def _splits(
    root: Path, files: Mapping[str, CaseFiles]
) -> tuple[dict[str, tuple[str, ...]], str, tuple[str, ...]]:
    """Splits, who made them, and the cases a split file names."""
    path = root / SPLITS
    if not os.path.lexists(path):
        splits = {**split_ids(list(files), SHARE, 0), **_named(five_folds(list(files)))}
        return splits, f"sha256 order, seed 0, validation share {SHARE}", ()
    folds = read_folds(path)
    train, validation = folds[0]
    everything = tuple(sorted({*files, *train, *validation}))
    declared = tuple(dict.fromkeys(case for fold in folds for case in (*fold.train, *fold.validation)))
    splits = {"train": train, "validation": validation, **_named(folds), "all": everything}
    return splits, f"fold 0 of {SPLITS}", declared


def _named(folds: Sequence[Fold]) -> dict[str, tuple[str, ...]]:
    """What each fold holds out, as splits of their own names."""
    return {f"{FOLD}{k}": fold.validation for k, fold in enumerate(folds)}


def open_csv(path: Path) -> CaseFolder:
    """Cases of a CSV with columns ``image`` and ``label``, and if wanted ``id``, ``patient``, and ``split`` or ``fold``.

    Paths are relative to the CSV and stay inside its folder; several files of one case (a channel each) are
    separated by ``;``. Cases of one ``patient`` stay in one split, and are resampled together. A JSON of the same name beside it may give ``labels`` (``{"0": "background", ...}``) and
    ``channels`` (``["CT"]``, which is then windowed in HU); without it every label is read once to count the classes.
    In place of ``labels`` it may give ``keep`` (``{"5": "liver", "1": "spleen"}``): these ids of the files become classes
    1, 2, ... in this order, and all others background.

    Raises:
        DatasetError: an unreadable CSV, one without the columns, or without rows.
    """
    rows = _rows(path)
    root, side = path.resolve().parent, path.with_suffix(".json")
    meta = read_json(side) if os.path.lexists(side) else {}
    declared = any((row.get("split") or "").strip() for row in rows)
    entries = [
        Entry(
            images=tuple(slashes(p.strip()) for p in row["image"].split(";")),
            label=slashes(row["label"].strip()),
            id=(row.get("id") or "").strip(),
            split=_split(row, path) if declared else "",
            fold=_fold(row, path),
            patient=(row.get("patient") or "").strip(),
        )
        for row in rows
    ]
    found = arrange(
        entries, path.name, noun="row", first_channel=True, declared=f"column split of {path.name}"
    )
    check_keys(meta, side)
    channels = channels_of(meta, side) or ("image",) * count_channels(root, found.files)
    relabel = _kept(meta["keep"], side) if "keep" in meta else None
    if relabel is not None:
        classes = Classes(("background", *map(str, meta["keep"].values())))
    elif "labels" in meta:
        classes = classes_of(meta["labels"], side)
    else:
        classes = Classes(count_classes(root, found.files, path.name))
    folder = _folder(
        root, path.stem.lower(), classes, found.files, found.splits, channels, found.rule, meta, found.faults
    )
    folder = replace(folder, patients=found.patients)
    if relabel is None:
        return folder
    kept = ", ".join(f"{key} {name}" for key, name in meta["keep"].items())
    return replace(folder, relabel=relabel, notes={**folder.notes, "labels": f"of the files: {kept}"})


def _kept(keep: Any, path: Path) -> dict[int, int]:
    """Ids of the label files to class ids, in the order they are listed."""
    if not isinstance(keep, dict) or not keep or not all(str(key).isdigit() and int(key) > 0 for key in keep):
        raise DatasetError(
            f'expected "keep" {{"5": "liver", ...}} with ids from 1 in {path}, found {str(keep)[:200]}; correct it'
        )
    if len(set(map(str, keep.values()))) != len(keep):
        raise DatasetError(
            f"expected a name of its own for each kept class in {path}, found {str(keep)[:200]}; correct it"
        )
    return {int(key): number for number, key in enumerate(keep, start=1)}


def _split(row: Mapping[str, str], path: Path) -> str:
    name = (row.get("split") or "").strip().lower()
    if name not in _SPLITS:
        case = row.get("id") or row["image"]
        raise DatasetError(
            f"expected split train, validation or test of case {case} in {path}, found {name!r}; correct it"
        )
    return _SPLITS[name]


def _fold(row: Mapping[str, str], path: Path) -> int | None:
    text = (row.get("fold") or "").strip()
    if text and not re.fullmatch(r"[0-9]+", text):
        case = row.get("id") or row["image"]
        raise DatasetError(
            f"expected a whole number as fold of case {case} in {path}, found {text!r}; correct it"
        )
    return int(text) if text else None


def _folder(
    root: Path,
    name: str,
    classes: Classes,
    files: Mapping[str, CaseFiles],
    splits: Mapping[str, tuple[str, ...]],
    channels: tuple[str, ...],
    rule: str,
    meta: Mapping[str, Any],
    faults: Mapping[str, CaseError] | None = None,
) -> CaseFolder:
    return CaseFolder(
        root=root,
        name=name,
        class_names=classes.names,
        ignore=classes.ignore,
        files=files,
        splits=splits,
        preparation=Preparation(window=windows_of(channels)),
        channels=channels,
        roi_size=(),
        nsd_tolerance_mm=1.0,
        notes={
            "source": str(meta.get("reference", "unknown")),
            "licence": str(meta.get("licence", meta.get("license", "unknown"))),
            "split": rule,
        },
        faults=faults or {},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        content = read_bytes(path)
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        # A column Split that is not known for one would leave the split to the hash.
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [row for row in itertools.islice(reader, CASES + 1) if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"expected a CSV at {path}, found {error}; repair it") from error
    if len(rows) > CASES:
        raise DatasetError(f"expected at most {CASES} rows in {path}, found more; split the list")
    _check_columns(columns, rows, path)
    kept = []
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise DatasetError(
                f"expected {len(columns)} cells in line {number} of {path}, found more; quote cells with commas"
            )
        if row["image"] and row["image"].count(";") >= CHANNELS:
            raise DatasetError(
                f"expected at most {CHANNELS} images in line {number} of {path}, found more; correct it"
            )
        if not row["image"] or not row["label"]:
            if row["image"] and _SPLITS.get((row.get("split") or "").strip().lower()) == "test":
                continue  # nobody can score it, as in the test lists of the Decathlon
            raise DatasetError(
                f"expected image and label in line {number} of {path}, found {str(row)[:200]}; complete it"
            )
        kept.append(row)
    return kept


def _check_columns(columns: Sequence[str], rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """The columns that are needed, each once, and none that is a split by another name.

    Raises:
        DatasetError: with the remedy.
    """
    if not {"image", "label"} <= set(columns) or not rows:
        remedy = "add them"
        if len(columns) == 1 and re.search(r"[;\t|]", columns[0]):
            remedy = "separate cells by commas, and several files of one case by ;"
        raise DatasetError(
            f"expected columns image and label and a row in {path}, found columns {str(columns)[:200]} and {len(rows)} rows; "
            f"{remedy}"
        )
    twice = sorted(name for name, n in Counter(columns).items() if n > 1 and name)
    if twice:
        raise DatasetError(f"expected each column once in {path}, found {twice[0]!r} twice; rename one")
    for name in set(columns) - {"image", "label", "id", "patient", "split", "fold"}:
        said = {(row.get(name) or "").strip().lower() for row in rows} - {""}
        if said and said <= set(_SPLITS) and "split" not in columns:
            raise DatasetError(
                f"expected the split of a case in a column called split of {path}, found it in {name!r}; rename the column"
            )
