"""The ``frequency`` command as typed; its work is done elsewhere."""

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


def frequency(
    model: Models = [],  # noqa: B006 - Typer copies it
    attack: Attacks = [],  # noqa: B006
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="NAME", help="Scored model; default the attacked one."),
    ] = None,
    adversarial: Annotated[
        Path | None,
        typer.Option("--adversarial", metavar="DIR", help="Filter these saved volumes, scored on --target."),
    ] = None,
    bands: Annotated[
        list[str] | None,
        typer.Option(
            "--bands", metavar="cube|low_high|radial", help="Kind of band; may repeat. Default: all."
        ),
    ] = None,
    cuts: Annotated[
        str,
        typer.Option("--cuts", metavar="8/96,...", help="Shares of Nyquist where low_high and radial cut."),
    ] = "",
    rescale: Annotated[
        list[str] | None,
        typer.Option(
            "--rescale", metavar="none|linf|l2", help="Norm every band gets back; may repeat. Default: none."
        ),
    ] = None,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Split = "validation",
    cases: Cases = "4",
    protocol: ProtocolName = "robustvox-1",
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
    out: Out = Path("results"),
) -> int:
    """Filter an attack's perturbation by frequency and score every band: which frequencies do the harm?"""
    from ..specs.requests import FrequencyRequest, RunRequest
    from .commands.frequency import study_frequencies

    run = RunRequest(
        models=tuple(model),
        attacks=tuple(attack),
        targets=tuple(target or ()),
        adversarial=adversarial,
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
    return study_frequencies(
        FrequencyRequest(run=run, kinds=tuple(bands or ()), cuts=cuts, rescale=tuple(rescale or ()))
    )
