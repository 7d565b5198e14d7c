"""Built-in names, then entry points, then ``package.module:Name``, which only what was typed may be.

A name in a file (a record, a note, a card, a configuration) is somebody else's text: importing it would run whatever
it names. Such names are found among what is registered here, or among what this process has imported already.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ..specs.spec import UsageError, match


class UnregisteredError(UsageError):
    """A file names something of somebody's own, which is not imported for that."""


Find = Callable[[str, str], Any]
"""``(path, what)`` to what ``package.module:Name`` stands for."""


def resolve(name: str, registry: Mapping[str, Any], group: str, what: str, find: Find) -> tuple[str, Any]:
    """The key and value of a name; ``find`` decides whether ``package.module:Name`` may be imported.

    Raises:
        UsageError: nothing has this name.
    """
    try:
        key = match(name, registry, what)
        return key, registry[key]
    except UsageError:
        plugin = find_plugin(name, group) or (find(name, what) if ":" in name else None)
        if plugin is None:
            raise
        return name, plugin


def find_plugin(name: str, group: str) -> Any | None:
    """What an installed package has registered under this name.

    Raises:
        UsageError: it is registered and cannot be imported.
    """
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name == name:
            try:
                return entry.load()
            except Exception as error:  # somebody's module may raise anything
                from .bring import blame

                raise UsageError(
                    f"expected the plug-in {name} ({group}) to be importable, found: {blame(error)}; repair or "
                    "uninstall its package"
                ) from error
    return None


def import_name(path: str, what: str) -> Any:
    """Import ``package.module:Name``; only for what the person at the command line typed in this call.

    Raises:
        UsageError: there is no such module or name, or importing it fails.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        from .bring import blame

        found = error if isinstance(error, ImportError | AttributeError | ValueError) else blame(error)
        remedy = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
            remedy = (
                f"; put the folder that holds {error.name} on the path: PYTHONPATH=FOLDER before the command"
            )
        raise UsageError(
            f"expected {what} {path!r} as NAME:key=value,... or as an importable package.module:Name, found: "
            f"{found}{remedy}"
        ) from error


def find_imported(path: str, what: str) -> Any:
    """What ``package.module:Name`` is in this process; nothing is imported and no module is asked to make it.

    Raises:
        UnregisteredError: the module is not imported, or has no such name.
    """
    module, _, attribute = path.partition(":")
    loaded = sys.modules.get(module)
    if not isinstance(loaded, ModuleType) or attribute not in vars(loaded):
        raise UnregisteredError(
            f"expected an {what} that is registered, found {path!r}, which is somebody's own code: a name in a file is "
            f"not imported; type it yourself, --{what} {path}, to allow it"
        )
    return vars(loaded)[attribute]


def check_parameters(name: str, parameters: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a parameter that is not known, with the nearest one as suggestion.

    Raises:
        UsageError: there is one.
    """
    import difflib

    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise UsageError(f"{name} has no parameter {key!r}; {hint}")
