"""The ``steal`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DataRoot, DatasetName, Device, Out


def steal(
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME[:k=v,...]", help="Architecture of the victim; small by default."
        ),
    ],
    dataset: DatasetName = "hippocampus",
    data_root: DataRoot = None,
    shift: Annotated[
        str,
        typer.Option(
            "--shift", metavar="NAME:VALUE,...", help="The thief's scanner: edge, psf_mm, noise, ..."
        ),
    ] = "edge:6",
    queries: Annotated[int, typer.Option("--queries", help="Volumes the victim answers.", min=2)] = 38,
    seed: Annotated[
        list[int], typer.Option("--seed", help="Patients and weights of the thief; may repeat.")
    ] = [0],  # noqa: B006 - Typer copies it
    thief: Annotated[
        str,
        typer.Option("--thief", metavar="NAME[:k=v,...]", help="Architecture of the copy; small by default."),
    ] = "unet:num_res_units=0",
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds of asking and calibrating.", min=1)] = 1,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps of the copy.", min=1)] = 200,
    calibration: Annotated[
        str,
        typer.Option("--calibration", metavar="population|phantom", help="Spectra the filter comes from."),
    ] = "population",
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="A trained victim; default: train one."),
    ] = None,
    victim_cases: Annotated[
        int, typer.Option("--victim-cases", help="Training cases of a victim trained here.", min=1)
    ] = 100,
    victim_steps: Annotated[int, typer.Option("--victim-steps", help="Its optimizer steps.", min=1)] = 400,
    pool: Annotated[int, typer.Option("--pool", help="Patients of the thief.", min=2)] = 60,
    reference: Annotated[int, typer.Option("--reference", help="Public volumes of scanner A.", min=1)] = 5,
    cases: Annotated[
        int, typer.Option("--cases", help="Test patients, of the validation split.", min=1)
    ] = 12,
    roi_size: Annotated[
        str,
        typer.Option(
            "--roi-size", metavar="X,Y,Z", help="Window of victim and copy; default: the dataset's."
        ),
    ] = "",
    other: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            metavar="NAME",
            help="Independent surrogate of the zoo; may repeat. Default: segresnet.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also more budgets, two rounds, chosen queries.")
    ] = False,
    device: Device = "auto",
    out: Out = Path("results"),
) -> int:
    """Copy a model through its inputs and outputs from another scanner, attack with the copy, measure defences."""
    from ..specs.requests import StealRequest
    from .commands.steal import steal_model

    return steal_model(
        StealRequest(
            model=model,
            dataset=dataset,
            data_root=data_root,
            shift=shift,
            queries=queries,
            seeds=tuple(dict.fromkeys(seed)),
            thief=thief,
            rounds=rounds,
            steps=steps,
            calibration=calibration,
            checkpoint=checkpoint,
            victim_cases=victim_cases,
            victim_steps=victim_steps,
            pool=pool,
            reference=reference,
            cases=cases,
            roi_size=roi_size,
            others=tuple(dict.fromkeys(other or ())),
            full=full,
            device=device,
            out=out,
        )
    )
