"""Compressed CSV: for rows per case that all repeat what decides them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pandas as pd

from .reading import Frame
from .writing import replace_file


def write_packed(path: Path, text: str) -> None:
    """Put a CSV in its place, compressed, forced to the disk; the same text is the same bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_packed(Path(folder) / "a.csv.gz", "case,dice\\nx,0.1\\n")
        ...     read_packed(Path(folder) / "a.csv.gz").loc[0, "dice"]
        '0.1'
    """
    replace_file(path, gzip.compress(text.encode("utf-8"), mtime=0), durable=True)


def read_packed(path: Path) -> Frame:
    """Every cell of such a file as text, also where it is empty; numbers are for the caller to read, bit by bit.

    Raises:
        ValueError: it is no gzip file, is cut off, or holds no CSV.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, compression="gzip")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"no whole gzip file ({error})") from error
