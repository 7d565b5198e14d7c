"""Files that are replaced in one piece, so that a kill leaves the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a file beside its place and put it there.

    Args:
        path: of the file; its folder exists.
        text: written as UTF-8, line ends as they are.
        durable: force it to the disk first, for what cannot be made again from other files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     replace_file(Path(folder) / "a.txt", "one")
        ...     [p.name for p in Path(folder).iterdir()]
        ['a.txt']
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("wb") as file:
        file.write(text.encode("utf-8"))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
