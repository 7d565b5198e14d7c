"""Where a number came from: versions, commit, hardware, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..specs.program import MODULE
from .reading import read_bytes, restoring
from .rows import parse_line
from .schema import Crossed, ProvenanceLine, problem_of
from .unit import digest

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
        "command": f"{MODULE} {shlex.join(_without_folders(sys.argv[1:] if command is None else command))}",
    }


def read_entries(path: Path) -> Iterator[tuple[str, Crossed] | str]:
    """Entries of a ``provenance.jsonl`` with their ids, and a text for every line that is none.

    A torn last line is left out: the run that wrote it wrote it again before its first row.

    Raises:
        RecordsError: there is something at the path that cannot be read.
    """
    *lines, _ = read_bytes(path).split(b"\n")
    for number, text in enumerate(lines, start=1):
        line = parse_line(text)
        problem = (
            problem_of(ProvenanceLine, line, "provenance line")
            if line
            else "something that is not a JSON object"
        )
        if not problem and digest(line["entry"]) != line["id"]:
            problem = (
                f"id {line['id']} for an entry whose hash is {digest(line['entry'])}; the line was edited"
            )
        entry = None if problem else Crossed.model_validate(line["entry"])
        if entry is not None and not {*entry.surrogates, *entry.targets} <= entry.models.keys():
            problem = "surrogates or targets without their checkpoint in models"
        if problem and number == len(lines) and "JSON" in problem:
            continue
        if problem or entry is None:
            yield f"{path}, line {number}: expected the provenance of a run, got {problem}; {restoring(path)}"
        else:
            yield line["id"], entry


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


def devices_of(folder: Path) -> dict[str, str]:
    """Kind of device, ``cpu`` or ``cuda``, that every run of a records folder computed on, by its id.

    Runs of before devices were written down were on a CPU. Lines that are no provenance are left out.

    Raises:
        RecordsError: there is something that cannot be read.
    """
    entries = (found for path in folder.glob("*/provenance.jsonl") for found in read_entries(path))
    return {
        found[0]: str((found[1].compute or {}).get("device", "cpu")).partition(":")[0]
        for found in entries
        if not isinstance(found, str)
    }
