"""What this program was called as, so that what it prints can be pasted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPT = "robustvox"
MODULE = "python -m benchmark"


def program() -> str:
    """``robustvox`` where the installed script was called, else ``python -m benchmark``, which runs in the clone.

    Example:
        >>> program() in (SCRIPT, MODULE, "python -m robustvox.benchmark")
        True
    """
    called = Path(sys.argv[0] if sys.argv else "")
    if called.stem == SCRIPT:
        return SCRIPT
    # Away from the clone only the installed package is found.
    return "python -m robustvox.benchmark" if _by_package() else MODULE


def _by_package() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.startswith("robustvox.benchmark")


def pasted(arguments: Sequence[str]) -> str:
    """The command of these arguments as a shell takes it.

    Example:
        >>> pasted(["run", "--out", "my results"]).endswith("run --out 'my results'")
        True
    """
    return shlex.join([*program().split(), *arguments])
