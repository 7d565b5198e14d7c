"""Lists of cases: which files are data, what a case is called, and which split it is in."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .base import CaseError, DatasetError
from .nifti import CaseFiles

SHARE = 0.2
"""Of cases held out when nobody says which."""

FOLD = "fold_"
"""Start of the name of a split that holds the validation cases of one fold."""


def slashes(path: str) -> str:
    """A path of a list with the separators every system reads; lists are also written on Windows.

    Example:
        >>> slashes(r"imagesTr\\a.nii.gz")
        'imagesTr/a.nii.gz'
    """
    return path.replace("\\", "/")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One case as a list declares it.

    Args:
        images: a file per channel, or one with all; relative to the dataset's folder.
        label: its label.
        id: as given; empty for one made from the path of the first image.
        split: ``train``, ``validation`` or ``test``; empty where the list does not say.
        fold: in which the case is held out, where the list says.
        named_by: path the id is made from; empty for the first image.
        patient: whom it is of, where the list says; such a patient is never split.
    """

    images: tuple[str, ...]
    label: str
    id: str = ""
    split: str = ""
    fold: int | None = None
    named_by: str = ""
    patient: str = ""


@dataclass(frozen=True)
class CaseList:
    """Cases by id with their splits; ``faults`` are those no result may rest on, ``rule`` says who made the splits.

    ``patients`` says whom a case is of, where the list does.
    """

    files: Mapping[str, CaseFiles]
    splits: Mapping[str, tuple[str, ...]]
    faults: Mapping[str, CaseError]
    rule: str
    patients: Mapping[str, str] = field(default_factory=dict)


def is_hidden(name: str) -> bool:
    """Whether a path is one of the files that systems leave beside data: ``._x`` of macOS, ``.DS_Store``, ``.x``.

    Example:
        >>> [is_hidden(name) for name in ("imagesTr/._a.nii.gz", "__MACOSX/a.nii.gz", "./a.nii.gz", "../a.nii.gz")]
        [True, True, False, False]
    """
    parts = [part for part in name.split("/") if part]
    return bool(parts) and (parts[-1].startswith(".") or "__MACOSX" in parts)


def case_id(image_name: str) -> str:
    """The file's name without folder and ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", image_name.rsplit("/", 1)[-1])


def name_cases(paths: Sequence[str], *, first_channel: bool = False) -> list[str]:
    """Case ids from image paths: the file's name, with as many folders before it as it takes to tell it from others.

    Args:
        paths: of the first image of each case.
        first_channel: drop nnU-Net's ``_0000`` of a first channel.

    Example:
        >>> name_cases(["a/1.nii.gz", "b/2.nii.gz"]), name_cases(["a/img.nii.gz", "b/img.nii.gz"])
        (['1', '2'], ['a/img', 'b/img'])
    """
    whole = [_parts(path, first_channel) for path in paths]
    count = Counter(parts[-k:] for parts in set(whole) for k in range(1, len(parts) + 1))
    names = []
    for parts in whole:
        k = next((k for k in range(1, len(parts)) if count[parts[-k:]] == 1), len(parts))
        names.append("/".join(parts[-k:]))
    return names


def _parts(path: str, first_channel: bool) -> tuple[str, ...]:
    folders = [part for part in path.split("/")[:-1] if part not in ("", ".")]
    name = case_id(path)
    return (*folders, re.sub(r"_0000$", "", name) if first_channel else name)


def arrange(
    entries: Sequence[Entry],
    where: str,
    *,
    noun: str = "entry",
    first_channel: bool = False,
    declared: str = "",
    validation: float | int = SHARE,
    seed: int = 0,
) -> CaseList:
    """Name the cases of a list and split them: as it declares, by its folds, or by a hash where it says neither.

    Hidden files are left out. A case that is listed twice, or in two splits, stays listed with a fault.

    Args:
        entries: in the order of the list.
        where: its file, for messages.
        noun: what an entry is called there.
        first_channel: see :func:`name_cases`.
        declared: how to call the declared split; default ``"lists of WHERE"``.
        validation: share or number held out by the hash rule.
        seed: of the hash rule.

    Raises:
        DatasetError: nothing is left.
    """
    kept = [entry for entry in entries if not is_hidden(entry.images[0])]
    if not kept:
        raise DatasetError(f"expected a case in {where}, found none; complete the list")
    made = name_cases([entry.named_by or entry.images[0] for entry in kept], first_channel=first_channel)
    ids = [entry.id or name for entry, name in zip(kept, made, strict=True)]
    files = {case: CaseFiles(e.images, e.label) for case, e in zip(ids, kept, strict=True)}
    faults = {
        case: CaseError(
            case, f"one {noun} per case", f"{n} in {where}", "remove the copies or give each an id"
        )
        for case, n in Counter(ids).items()
        if n > 1
    }
    splits, rule = _split(
        list(zip(ids, kept, strict=True)), declared or f"lists of {where}", where, validation, seed
    )
    everything = tuple(sorted(files)) if rule.startswith("sha256") else tuple(files)
    patients = {case: entry.patient for case, entry in zip(ids, kept, strict=True) if entry.patient}
    return CaseList(files, {**splits, "all": everything}, faults, rule, patients)


def _split(
    pairs: Sequence[tuple[str, Entry]], declared: str, where: str, validation: float | int, seed: int
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Splits of named entries, test cases and folds beside training and validation, and who made them."""
    test = _unique(case for case, entry in pairs if entry.split == "test")
    rest = [(case, entry) for case, entry in pairs if entry.split != "test"]
    folds = {
        f"{FOLD}{k}": _unique(case for case, entry in rest if entry.fold == k)
        for k in sorted({entry.fold for _, entry in rest if entry.fold is not None})
    }
    if any(entry.split for _, entry in rest) or not rest:
        held_out = {case for case, entry in rest if entry.split == "validation"}
        # A case in both lists stays in both, which is its fault.
        train = _unique(case for case, entry in rest if entry.split != "validation")
        chosen = _unique(case for case, _ in rest if case in held_out)
        rule = declared
    elif folds:
        first = next(iter(folds))
        train = _unique(case for case, _ in rest if case not in folds[first])
        chosen, rule = folds[first], f"fold {first.removeprefix(FOLD)} of {where}"
    else:
        # By patient where the list says who that is, else a case is its own.
        whose = {case: entry.patient or case for case, entry in rest}
        hashed = split_ids(_unique(whose.values()), validation, seed)
        train, chosen = (
            tuple(sorted(case for case in whose if whose[case] in hashed[name]))
            for name in ("train", "validation")
        )
        rule = f"sha256 order, seed {seed}, validation share {validation}"
    return {"train": train, "validation": chosen, **({"test": test} if test else {}), **folds}, rule


def _unique(cases: Iterable[str]) -> tuple[str, ...]:
    """In order, each once."""
    return tuple(dict.fromkeys(cases))


def split_ids(ids: Sequence[str], validation: float | int, seed: int) -> dict[str, tuple[str, ...]]:
    """Split patients by the order of ``sha256(f"{seed}:{id}")``.

    Independent of the order of the list, stable when cases are added (a patient moves only across the
    boundary), and the same on every platform.

    Args:
        ids: unique case ids, one per patient.
        validation: share (float in [0, 1]) or number (int) of cases held out.
        seed: chooses the split; recorded with the results.

    Returns:
        ``train`` and ``validation`` in alphabetical order, ``all`` being both.

    Example:
        >>> sorted(split_ids(["a", "b", "c", "d"], 0.25, seed=0)["validation"]).__len__()
        1
    """
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if list(ids).count(i) > 1})
        raise DatasetError(
            f"expected unique case ids, found {', '.join(twice[:5])} more than once; remove the copies"
        )
    order = sorted(
        ids, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode("utf-8", "surrogatepass")).hexdigest()
    )
    held_out = validation if isinstance(validation, int) else round(validation * len(order))
    return {
        "train": tuple(sorted(order[held_out:])),
        "validation": tuple(sorted(order[:held_out])),
        "all": tuple(sorted(order)),
    }
