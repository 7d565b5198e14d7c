"""Records in their first form, a row per class and one of cost: what tests take apart, and what is still read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustvox.benchmark.records.reading import read_blocks
from robustvox.benchmark.records.rows import encode


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Every row of a file, whichever form it has."""
    return [row for block, _ in read_blocks(path) for row in block]


def spread(path: Path) -> Path:
    """Rewrite a file in the first form."""
    path.write_bytes(encode(*rows_in(path)))
    return path
