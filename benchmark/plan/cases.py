"""From names to datasets and cases."""

from __future__ import annotations

from pathlib import Path

from robustvox.datasets import ALIASES as DATASET_ALIASES
from robustvox.datasets import CATALOG as DATASET_CATALOG
from robustvox.datasets import Dataset, DatasetError, open_dataset

from ..specs.spec import UsageError, match
from .registries import find_plugin

_KNOWN = {**DATASET_CATALOG, **DATASET_ALIASES}


EVERY_SPLIT = "*"
"""In place of a split's name: where ids decide, the split does not matter."""


def select_cases(dataset: Dataset, split: str, cases: str) -> tuple[str, ...]:
    """The first ``cases`` of a split (or of every split), all of it, or ids separated by commas."""
    everything = tuple(dict.fromkeys(c for ids in dataset.splits.values() for c in ids))
    known = everything if split == EVERY_SPLIT else dataset.splits[match(split, dataset.splits, "split")]
    if cases.lower() == "all":
        return tuple(known)
    if cases.isdigit():
        if int(cases) < 1:
            raise UsageError("expected --cases of at least 1, got 0")
        return tuple(known[: int(cases)])
    wanted = [c.strip() for c in cases.split(",") if c.strip()]
    unknown = [c for c in wanted if c not in everything]
    if unknown or not wanted:
        raise UsageError(
            f"expected --cases as a number, `all` or ids of {dataset.name}, got {', '.join(unknown) or repr(cases)}; "
            f"ids look like {known[0]}"
        )
    return tuple(dict.fromkeys(wanted))


def load_dataset(name: str, data_root: str | Path | None) -> Dataset:
    """Open a dataset by name, plug-in or path; a wrong name or folder is a :class:`UsageError`.

    For what was typed; what a file names is :func:`recorded_dataset`'s.
    """
    try:
        if name not in _KNOWN and (Path(name).is_dir() or name.lower().endswith(".csv")):
            return open_dataset(name)
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
