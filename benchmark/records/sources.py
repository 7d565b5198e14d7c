"""Which folder of results belongs to which dataset: the whole path decides, not the last part of it.

A dataset of the registry has its name. One that was given as a path has the name of its folder or list, unless that
name is taken: by the registry, or in these results by another path. Then eight digits of the path's hash follow.
``results/<dataset>/source.json`` holds the hash of the path, not the path, so that results can be handed on.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from robustvox.datasets import ALIASES, CATALOG, Dataset

from ..specs.names import folder_name
from ..specs.options import RUNS
from ..specs.spec import UsageError, match

SOURCE = "source.json"
PUBLISHED = "published.json"
"""In a folder of results that ``leaderboard --publish`` alone adds to."""

_HASH = "path_sha256"


def is_published(out: Path) -> bool:
    """Whether a folder of results is one that only ``leaderboard`` writes."""
    return (out / PUBLISHED).is_file()


def path_of(dataset: Dataset) -> Path | None:
    """The path a dataset was given as; ``None`` for one of the registry."""
    return getattr(dataset, "path", None)


def name_in(out: Path | None, name: str, path: Path) -> str:
    """The name of a dataset that was given as ``path``, among the results in ``out``.

    Args:
        out: folder of all results; ``None`` where nothing is recorded (training).
        name: what it would be called by its path alone.
        path: of the folder or list.

    Example:
        >>> name_in(None, "hippocampus", Path("/scans/hippocampus")) == "hippocampus"
        False
    """
    name = folder_name(name)
    return _name(name, path, None if out is None else _owner(out / name / SOURCE))


def _name(name: str, path: Path, owner: str | None) -> str:
    identity = _identity(path)
    taken = name in CATALOG or name in ALIASES or owner not in (None, identity)
    return f"{name}-{identity[:8]}" if taken else name


def zoo_name(dataset: Dataset) -> str:
    """The folder of the zoo for models of a dataset, whatever its results are called.

    Two paths of one name are two datasets: a model of one is not taken for the other's.
    """
    path = path_of(dataset)
    return dataset.name if path is None else f"{base_name(dataset.name)}-{_identity(path)[:8]}"


def claim(out: Path, dataset: Dataset) -> None:
    """Note in its folder of results which path a dataset is from; nothing for one of the registry.

    Everything that computes asks here before it writes.

    Raises:
        UsageError: what lies there is published, the folder belongs to another path, or cannot be written.
    """
    if is_published(out):
        raise UsageError(
            f"expected --out to be a folder of your own, got {out}, which is published; leave --out away, then "
            f"`leaderboard --publish {RUNS}`"
        )
    path = path_of(dataset)
    if path is not None:
        _claim(out / dataset.name / SOURCE, path)


def claim_figures(out: Path, dataset: Dataset) -> str:
    """The folder for pictures of a dataset below ``out``, which is noted beside it.

    Raises:
        UsageError: ``out`` cannot be written.
    """
    path, name = path_of(dataset), base_name(dataset.name)
    if path is None:
        return dataset.name
    # Where pictures go to the results, these tell whose folder it is.
    owner = _owner(out / name / SOURCE) or _owner(out / f"{name}.{SOURCE}")
    name = _name(name, path, owner)
    _claim(out / f"{name}.{SOURCE}", path)
    return name


def _claim(note: Path, path: Path) -> None:
    identity = _identity(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with note.open("x", encoding="utf-8") as file:
            file.write(json.dumps({_HASH: identity}) + "\n")
    except FileExistsError:
        if _owner(note) not in (None, identity):
            raise UsageError(
                f"expected results of {path.name} in {note.parent}, found those of another dataset of this name; "
                "give another --out"
            ) from None
    except OSError as error:
        raise UsageError(f"expected to write to {note.parent}, found {error}; give another --out") from error


def recorded_name(out: Path, text: str) -> str:
    """The folder below ``out`` that holds the records of what ``--dataset TEXT`` means to a run.

    The data themselves are not opened, and need not be there any more.

    Raises:
        UsageError: nothing is recorded under any reading of the text.
    """
    recorded = sorted(path.parent.name for path in out.glob("*/records") if path.is_dir())
    for name in dict.fromkeys(_readings(out, text)):
        if name in recorded:
            return name
    try:
        return match(text, {name: name for name in recorded}, "dataset with records")
    except UsageError as error:
        raise UsageError(
            f"expected records of {text} in {out}, found none; recorded there: {', '.join(recorded) or 'nothing'} "
            f"({error})"
        ) from None


def _readings(out: Path, text: str) -> list[str]:
    """What a text may mean, in the order in which a run tries."""
    try:
        registered = match(text, {**CATALOG, **ALIASES}, "dataset")
        return [ALIASES.get(registered, registered)]
    except UsageError:
        pass
    path = Path(text)
    stem = path.stem if path.suffix.lower() in (".csv", ".json") else path.resolve().name
    by_path = name_in(out, stem.lower(), path)
    return [by_path, text] if path.exists() else [text, by_path]


def base_name(name: str) -> str:
    """A dataset's name without the hash that tells two of one name apart.

    Example:
        >>> base_name("test-0123abcd"), base_name("test")
        ('test', 'test')
    """
    return re.sub(r"-[0-9a-f]{8}$", "", name)


def _identity(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogatepass")).hexdigest()


def _owner(note: Path) -> str | None:
    """Hash of the path that a folder of results or figures belongs to, ``None`` when it does not say."""
    try:
        content: Any = json.loads(note.read_bytes()) if note.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content.get(_HASH) if isinstance(content, dict) else None
