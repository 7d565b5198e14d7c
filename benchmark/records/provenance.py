"""Where a number came from: versions, commit, hardware, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "monai", "numpy", "scipy", "pandas", "nibabel")


def version() -> str:
    """Version of the installed robustvox distribution."""
    try:
        return importlib.metadata.version("robustvox")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


def describe(command: Sequence[str] | None = None) -> dict[str, Any]:
    """Provenance of this process, as stored beside the records: no paths, no host name, no user."""
    import torch

    return {
        "robustvox": version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()}-{platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": "python -m benchmark "
        + shlex.join(_without_folders(sys.argv[1:] if command is None else command)),
    }


def _without_folders(arguments: Sequence[str]) -> list[str]:
    """Arguments with absolute paths cut to their last part: records are published, home folders are not."""
    return [
        Path(a).name
        if Path(a).is_absolute()
        else re.sub(r"(?<=[=:,(])(?:[A-Za-z]:[\\/]|~?/)[^\s,=()]*[\\/]", "", a)
        for a in arguments
    ]


def _commit() -> str:
    """Commit of the clone this package runs from, with ``+`` when files differ from it."""
    clone = Path(__file__).resolve().parents[2]
    try:
        run = lambda *a: subprocess.run(  # noqa: E731
            (
                "git",
                "--no-optional-locks",
                "-C",
                str(clone),
                *a,
            ),  # a run that is killed leaves no lock in the clone
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        code = ("attacks", "models", "datasets", "benchmark")
        dirty = run("status", "--porcelain", "--untracked-files=no", "--", *code)
        return run("rev-parse", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
