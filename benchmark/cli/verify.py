"""The ``verify`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DataRoot, Device


def verify(
    records: Annotated[
        Path, typer.Argument(metavar="RECORDS", help="results, results/<dataset>, or a records folder.")
    ],
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Rows to recompute.", min=0)] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Which rows are drawn.")] = 0,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME|PATH", help="Where the dataset is, if a folder.")
    ] = None,
    data_root: DataRoot = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", metavar="FILE", help="A submitted checkpoint; may repeat."),
    ] = None,
    device: Device = "auto",
) -> int:
    """Recompute a random sample of record rows from the checkpoints and compare; checks every row's identity."""
    from ..specs.requests import VerifyRequest
    from .commands.verify import verify_records

    request = VerifyRequest(
        records=records,
        sample=sample,
        seed=seed,
        dataset=dataset,
        data_root=data_root,
        checkpoints=tuple(checkpoint or ()),
        device=device,
    )
    return verify_records(request)
