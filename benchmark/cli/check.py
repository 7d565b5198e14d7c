"""The ``check`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Attacks,
    Cases,
    Checkpoints,
    DataRoot,
    DatasetName,
    Device,
    Models,
    Out,
    ProtocolName,
    Seed,
    Split,
    Untrained,
)


def check(
    model: Models,
    attack: Attacks,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Split = "validation",
    cases: Cases = "2",
    protocol: ProtocolName = "robustvox-1",
    only: Annotated[str, typer.Option("--only", metavar="C2,...", help="Ids or names of checks.")] = "",
    queries: Annotated[
        int, typer.Option("--queries", help="Forwards of the gradient-free probe C8.", min=1)
    ] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
    out: Out = Path("results"),
) -> int:
    """Check whether the numbers of attacks on models can be believed: C1 to C22, pass, warn or fail.

    Warnings and failures become flags of the tables (`C8:fail`), except C17 and C21, which inform. Not computed:
    C19 (per-case reporting), a property of the records, and the transfer half of C5, a comparison of two tables.
    """
    from ..specs.requests import CheckRequest, RunRequest
    from .commands.check import check_benchmark

    run = RunRequest(
        models=tuple(model),
        attacks=tuple(attack),
        dataset=dataset,
        data_root=data_root,
        split=split,
        cases=cases,
        protocol=protocol,
        seed=seed,
        device=device,
        checkpoints=tuple(checkpoint or ()),
        untrained=untrained,
        out=out,
    )
    return check_benchmark(CheckRequest(run=run, only=only, queries=queries))
