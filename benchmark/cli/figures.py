"""The ``figures`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Cases, Checkpoints, DataRoot, DatasetName, Device, ProtocolName, Seed, Split, Untrained


def figures(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME[:k=v,...]", help="Attacked model; may repeat."),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME[:k=v,...]", help="Attack; may repeat.")
    ] = None,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Split = "validation",
    cases: Cases = "1",
    protocol: ProtocolName = "robustvox-1",
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
    formats: Annotated[
        str, typer.Option("--format", metavar="png,svg,pdf", help="File formats.")
    ] = "png,svg",
    convention: Annotated[
        str, typer.Option("--convention", help="Slices radiological or neurological.")
    ] = "radiological",
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Folder of records and tables.")
    ] = Path("results"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the figures.")] = Path(
        "figures"
    ),
) -> int:
    """Draw attacked cases in three planes, and budget curves and transfer heat maps of the records.

    Attacks run again with the seeds of the records, so a picture shows what was scored and says whether it is.
    Without models and attacks only the records are drawn; no data are needed for that.
    """
    from ..show.figures.canvas import require_matplotlib

    require_matplotlib()  # before torch is loaded

    from ..specs.requests import FiguresRequest, RunRequest
    from .commands.figures import draw_figures

    run = RunRequest(
        models=tuple(model or ()),
        attacks=tuple(attack or ()),
        dataset=dataset,
        data_root=data_root,
        split=split,
        cases=cases,
        protocol=protocol,
        seed=seed,
        device=device,
        checkpoints=tuple(checkpoint or ()),
        untrained=untrained,
        out=results,
    )
    kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in formats.split(",") if kind.strip()))
    return draw_figures(
        FiguresRequest(run=run, out=out, formats=kinds, convention=convention.strip().lower())
    )
