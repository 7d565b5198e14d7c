"""The ``compare`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DatasetName, Out, ProtocolName


def compare(
    model: Annotated[
        list[str],
        typer.Option("--model", metavar="NAME[@HASH]", help="Give two; the first minus the second."),
    ],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME[:k=v,...]",
            help="Attack; may repeat; `none` is the clean volume. Default: every one recorded for both.",
        ),
    ] = None,
    dataset: DatasetName = "phantom",
    protocol: ProtocolName = "robustvox-1",
    metric: Annotated[str, typer.Option("--metric", help="dice, hd95_mm or nsd.")] = "dice",
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the unrounded table too.")
    ] = None,
    out: Out = Path("results"),
) -> int:
    """Is one model more robust than another? Paired over the recorded cases, white-box, corrected over the attacks."""
    from ..specs.requests import CompareRequest
    from .commands.compare import compare_command

    return compare_command(
        CompareRequest(
            models=tuple(model),
            attacks=tuple(attack or ()),
            dataset=dataset,
            protocol=protocol,
            metric=metric,
            csv=csv,
            out=out,
        )
    )
