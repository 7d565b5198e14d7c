"""Lists of somebody else in JSON and CSV: read within bounds, validated once against a schema."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from .base import DatasetError
from .schemas import Listing

MOST_BYTES = 32 << 20
DEPTH = 32
VALUES = 500_000
"""Levels and values of a document."""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file that is no larger than any list.

    Raises:
        DatasetError: nothing there, no file, not readable, or too large.
    """
    content = _first_bytes(path, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DatasetError(f"expected at most {MOST_BYTES} bytes in {path}, found more; give the right file")
    return content


def _first_bytes(path: Path, many: int) -> bytes:
    try:
        if stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            with path.open("rb") as file:
                return file.read(many)
    except FileNotFoundError:
        raise DatasetError(
            f"expected {path}, found nothing; give the folder that holds {path.name}, or list images and "
            "labels in a .csv"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"expected a readable file at {path}, found {error}; correct the path") from error
    raise DatasetError(f"expected a file at {path}, found something else; put the file there")


def read_any(path: Path) -> Any:
    """The content of a JSON file in UTF-8, 16 or 32, with or without a byte-order mark.

    Raises:
        DatasetError: it is no JSON, or deeper and larger than a list is, or a key comes twice.
    """
    content = read_bytes(path)
    try:
        text = content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
        document = json.loads(text, object_pairs_hook=_unique)
    except (RecursionError, ValueError, MemoryError) as error:
        found = f"more than {DEPTH} levels" if isinstance(error, RecursionError) else str(error)[:200]
        raise DatasetError(f"expected JSON in {path}, found {found}; repair the file") from error
    _check_size(document, path)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        count = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key in count if count[key] > 1)[:80]!r} twice")
    return found


def _check_size(document: Any, path: Path) -> None:
    level, count, depth = [document], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > DEPTH or count > VALUES:
            much = f"{DEPTH} levels" if depth > DEPTH else f"{VALUES} values"
            raise DatasetError(f"expected at most {much} in {path}, found more; repair the file")
        level = [
            item
            for value in level
            for item in (
                value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            )
        ]


def read_json(path: Path) -> dict[str, Any]:
    """:func:`read_any` where an object with what a dataset says of itself is expected.

    Raises:
        DatasetError: something else, or a value that is not of its kind, see :class:`~.schemas.Listing`.
    """
    document = read_any(path)
    if not isinstance(document, dict):
        raise DatasetError(
            f"expected a JSON object in {path}, found {type(document).__name__}; repair the file"
        )
    return check(Listing, document, path)


def check(kind: Any, document: Any, path: Path) -> Any:
    """The document itself, if it is what the pydantic model ``kind`` says.

    Raises:
        DatasetError: names the first value that is not.
    """
    from pydantic import ValidationError

    try:
        kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # The names of a union's branches are pydantic's, not the document's.
        place = ".".join(str(part) for part in first["loc"] if not _is_branch(part))[:120]
        what = f'"{place}"' if place else "a document"
        found = "none" if first["type"] == "missing" else repr(first["input"])[:120]
        raise DatasetError(
            f"expected {what} of another kind in {path} ({first['msg']}), found {found}; repair it"
        ) from error
    return document


def _is_branch(part: object) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "Case") or "[" in part)
