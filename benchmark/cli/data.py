"""The ``data`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DataRoot, DatasetName


def data(
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Split to verify; may repeat. Default: all but test.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch an MSD task first.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep the findings as JSON.")
    ] = None,
) -> int:
    """Verify a copy of a dataset: cases found and missing, shapes, spacing, labels, hashes."""
    from .commands.data import verify_data

    return verify_data(dataset, data_root, splits=tuple(split or ()), download=download, out=out)
