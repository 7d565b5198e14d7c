"""The ``verify`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..specs.requests import MAX_COST, VerifyRequest
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
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME[:k=v,...]",
            help="A factory or path of your own that the records name and that may be used; may repeat.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="MODULE:NAME",
            help="An attack class of your own that the records name and that may be imported; may repeat.",
        ),
    ] = None,
    max_cost: Annotated[
        int,
        typer.Option("--max-cost", metavar="N", help="Forward and backward passes a row may take.", min=1),
    ] = MAX_COST,
    device: Device = "auto",
) -> int:
    """Recompute a random sample of record rows from the checkpoints and compare; checks every row's identity."""
    from .commands.verify import verify_records

    request = VerifyRequest(
        records=records,
        sample=sample,
        seed=seed,
        dataset=dataset,
        data_root=data_root,
        checkpoints=tuple(checkpoint or ()),
        models=tuple(model or ()),
        attacks=tuple(attack or ()),
        max_cost=max_cost,
        device=device,
    )
    return verify_records(request)
