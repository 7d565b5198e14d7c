"""Exit codes of every command."""

from __future__ import annotations

DONE, SOME_FAILED, USAGE, UNFINISHED, MISTAKE, INTERRUPTED, PIPE = 0, 1, 2, 3, 70, 130, 141
