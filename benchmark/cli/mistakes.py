"""What a command raised and nobody worded: one line on the screen, the whole traceback in a file."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

NAME = "robustvox-errors.log"


def keep_mistake(error: Exception) -> str:
    """Write a traceback to a file in the working folder, or in that of temporary files; the line to show."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = f"{stamp}  {' '.join(sys.argv[1:])}\n{''.join(traceback.format_exception(error))}\n"
    found = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with (folder / NAME).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return f"unexpected {found}: a mistake in this program or in code it was given; traceback in {folder / NAME}"
    return f"unexpected {found}; its traceback could not be written anywhere"
