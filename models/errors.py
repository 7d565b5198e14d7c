"""What a model that cannot be used raises."""

from __future__ import annotations

import zipfile
import zlib

ARCHIVE_FAILURES: tuple[type[Exception], ...] = (
    *(OSError, ValueError, RuntimeError, NotImplementedError, EOFError),
    *(zlib.error, zipfile.BadZipFile),
)
"""What reading a damaged zip archive may raise."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says expected, found, remedy."""
