"""Built-in names, then entry points, then ``package.module:Name``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from ..specs.spec import UsageError, match


def resolve(name: str, registry: Mapping[str, Any], group: str, what: str) -> tuple[str, Any]:
    try:
        key = match(name, registry, what)
        return key, registry[key]
    except UsageError:
        plugin = find_plugin(name, group) or (import_name(name, what) if ":" in name else None)
        if plugin is None:
            raise
        return name, plugin


def find_plugin(name: str, group: str) -> Any | None:
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name == name:
            return entry.load()
    return None


def import_name(path: str, what: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        from .bring import blame

        found = error if isinstance(error, ImportError | AttributeError | ValueError) else blame(error)
        raise UsageError(
            f"expected {what} {path!r} as NAME:key=value,... or as an importable package.module:Name, found: {found}"
        ) from error


def check_parameters(name: str, parameters: Mapping[str, Any], known: Sequence[str]) -> None:
    import difflib

    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise UsageError(f"{name} has no parameter {key!r}; {hint}")
