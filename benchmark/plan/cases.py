"""From names to datasets and cases."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from robustvox.datasets import ALIASES as DATASET_ALIASES
from robustvox.datasets import CATALOG as DATASET_CATALOG
from robustvox.datasets import Dataset, DatasetError, open_dataset
from robustvox.datasets.folder import CaseFolder

from ..records.sources import name_in
from ..specs.spec import UsageError, match
from .registries import find_plugin

_KNOWN = {**DATASET_CATALOG, **DATASET_ALIASES}


EVERY_SPLIT = "*"
"""In place of a split's name: where ids decide, the split does not matter."""

LISTS = (".csv", ".json")
"""Endings of files that list cases."""


def select_cases(
    dataset: Dataset,
    split: str,
    cases: str,
    held_out: Sequence[str] | None = None,
    *,
    option: str = "--cases",
) -> tuple[str, ...]:
    """The first ``cases`` of a split (or of every split), all of it, or ids separated by commas.

    ``held_out``, what the models were validated on, stands in the place of the split where it is known.

    A number that is the id of a case means that case, and a warning says so; ``first:3`` always is a number, and
    takes what there is where the split has fewer. ``option`` is what errors call the place where they were typed.

    Raises:
        UsageError: an empty split, an unknown split or id, or a number below 1 or above what there is.
    """
    everything = tuple(dict.fromkeys(c for ids in dataset.splits.values() for c in ids))
    known = tuple(held_out) if held_out else everything if split == EVERY_SPLIT else _split(dataset, split)
    if cases in everything:
        if cases.isdecimal():
            warnings.warn(
                f"{option} {cases} is the case named {cases} of {dataset.name}; for a number of cases say first:{cases}",
                UserWarning,
                stacklevel=2,
            )
        return (cases,)
    if cases.lower() == "all":
        return tuple(known)
    number = re.fullmatch(r"(?:first:)?([0-9]+)", cases)
    if number:
        if int(number[1]) < 1:
            raise UsageError(f"expected {option} of at least 1, got 0")
        if cases.isdecimal() and int(cases) > len(known):
            where = f"the split {split} of {dataset.name}" if split != EVERY_SPLIT else dataset.name
            raise UsageError(
                f"expected {option} of at most {len(known)}, which {where} has, got {cases}; for every case say "
                f"{option} all"
            )
        return tuple(known[: int(number[1])])
    wanted = [c.strip() for c in cases.split(",") if c.strip()]
    unknown = [c for c in wanted if c not in everything]
    if unknown or not wanted:
        raise UsageError(
            f"expected {option} as a number, `all` or ids of {dataset.name}, got {', '.join(unknown) or repr(cases)}; "
            f"ids look like {known[0]}"
        )
    return tuple(dict.fromkeys(wanted))


def _split(dataset: Dataset, split: str) -> tuple[str, ...]:
    name = match(split, dataset.splits, "split")
    require_cases(dataset, name)
    return tuple(dataset.splits[name])


def require_cases(dataset: Dataset, split: str, *, remedy: str = "") -> None:
    """An empty split is nothing to run on.

    Raises:
        UsageError: with the splits that have cases.
    """
    if len(dataset.splits[split]):
        return
    full = {name: len(ids) for name, ids in dataset.splits.items() if len(ids)}
    rule = dataset.provenance.get("split", "")
    if not full:
        raise UsageError(f"expected cases in {dataset.name}, found none in any split; complete the dataset")
    remedy = remedy or f"give --split {'all' if 'all' in full else next(iter(full))}, or declare a split"
    raise UsageError(
        f"expected cases in the split {split} of {dataset.name}, found none: it is empty"
        f"{f' ({rule})' if rule else ''}, there are {', '.join(f'{n} in {name}' for name, n in full.items())}; {remedy}"
    )


def load_dataset(name: str, data_root: str | Path | None, out: Path | None = None) -> Dataset:
    """Open a dataset by name, plug-in or path; a wrong name or folder is a :class:`UsageError`.

    For what was typed; what a file names is :func:`recorded_dataset`'s.

    Args:
        name: as typed.
        data_root: folder of the datasets' folders.
        out: folder of all results, where two paths of one name are told apart.
    """
    try:
        if name not in _KNOWN and (Path(name).is_dir() or name.lower().endswith(LISTS)):
            opened = open_dataset(name)
            if isinstance(opened, CaseFolder):
                return opened.renamed(name_in(out, opened.name, Path(name)), Path(name).resolve())
            return opened
    except DatasetError as error:
        raise UsageError(str(error)) from error
    return recorded_dataset(name, data_root)


def recorded_dataset(name: str, data_root: str | Path | None) -> Dataset:
    """Open the dataset that a file names: one of the registry or a plug-in, never a path.

    Raises:
        UsageError: no such dataset, or it is not below ``data_root``.
    """
    try:
        try:
            return open_dataset(match(name, _KNOWN, "dataset"), data_root)
        except UsageError:
            plugin = find_plugin(name, "robustvox.datasets")
            if plugin is None:
                raise
            return plugin(Path(data_root) if data_root is not None else None)
    except DatasetError as error:
        raise UsageError(str(error)) from error
