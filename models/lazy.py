"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names whose modules are too heavy to load with the package.

    Args:
        package: ``__name__`` of the package.
        homes: name -> module it is in, relative to the package.

    Example:
        >>> find = lazy_names("robustvox.models", {"check_roi": ".roi"})
        >>> find("check_roi").__module__
        'robustvox.models.roi'
        >>> find("check")
        Traceback (most recent call last):
        AttributeError: module 'robustvox.models' has no attribute 'check'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    return find
