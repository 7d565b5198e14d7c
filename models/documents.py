"""JSON and YAML of somebody else: read within bounds, validated once against a schema."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import CheckpointError

JSON_BYTES = 32 << 20
YAML_BYTES = 1 << 20
"""YAML is read by slow code, and by text that repeats itself."""

DEPTH = 64
VALUES = 200_000
"""Levels and values of a document; references of YAML count as often as they are used."""

Document = TypeVar("Document")


def read_document(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds an object.

    Raises:
        CheckpointError: not readable as such, larger or deeper than any such file is, or YAML without PyYAML.
    """
    most = JSON_BYTES if path.suffix == ".json" else YAML_BYTES
    content = read_bytes(path, most)
    if path.suffix == ".json":
        document = parse_json(content, path.name)
    else:
        document = bounded(_guarded(_yaml, content, path.name), path.name)
    if not isinstance(document, dict):
        raise CheckpointError(
            f"expected an object in {path.name}, found {type(document).__name__}; correct the file"
        )
    return document


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes; anything else is a :class:`CheckpointError`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"expected a file at {path.name}, found something else; put the file there")
        if found.st_size > most:
            raise CheckpointError(
                f"expected at most {most} bytes in {path.name}, found {found.st_size}; give the right file"
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"expected a readable {path.name}, found: {error.strerror}; correct the file"
        ) from error


def parse_json(content: bytes | str, where: str) -> Any:
    """A JSON document in UTF-8, 16 or 32, without repeated keys, of a depth and number of values that are bounded.

    Raises:
        CheckpointError: it is none.
    """
    return bounded(_guarded(_strict, content, where), where)


def _guarded(parse: Callable[[Any], Any], content: Any, where: str) -> Any:
    try:
        return parse(content)
    except RecursionError:
        raise CheckpointError(
            f"expected {where} as JSON or YAML of at most {DEPTH} levels, found more; correct the file"
        ) from None
    except (ValueError, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected {where} as JSON or YAML, found: {said or type(error).__name__}; correct the file"
        ) from error


def _strict(content: bytes | str) -> Any:
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} comes twice")
    return found


def _yaml(content: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise CheckpointError(
            "expected PyYAML to read the file, found it not installed; install it or write the file as JSON"
        ) from None
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def bounded(document: Any, where: str) -> Any:
    """The document itself, if it is no deeper and larger than :data:`DEPTH` and :data:`VALUES`."""
    stack, count = [(document, 1)], 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > DEPTH or count > VALUES:
            much = f"{DEPTH} levels" if depth > DEPTH else f"{VALUES} values"
            raise CheckpointError(f"expected at most {much} in {where}, found more; correct the file")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        stack += [(item, depth + 1) for item in inner]
    return document


def checked(kind: Callable[..., Document], document: Mapping[str, Any], where: str) -> Document:
    """A document as the pydantic model ``kind``.

    Raises:
        CheckpointError: names the first value that is not what the schema says.
    """
    from pydantic import ValidationError

    model: Any = kind
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:120] or "the document"
        found = "none" if first["type"] == "missing" else repr(first["input"])[:120]
        raise CheckpointError(
            f"expected another {place} in {where} ({first['msg']}), found {found}; correct the file"
        ) from error
