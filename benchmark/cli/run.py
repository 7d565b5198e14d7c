"""The ``run`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Attacks,
    Checkpoints,
    DataRoot,
    DatasetName,
    Device,
    Models,
    Out,
    ProtocolName,
    Seed,
    Untrained,
)


def run(
    model: Models = [],  # noqa: B006 - Typer copies it; with --adversarial there is none
    attack: Attacks = [],  # noqa: B006
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="NAME", help="Scored model; may repeat.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Score every model on every other's volumes.")
    ] = False,
    adversarial: Annotated[
        Path | None,
        typer.Option("--adversarial", metavar="DIR", help="Score these saved volumes on --target instead."),
    ] = None,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Annotated[
        str, typer.Option("--split", help="Split of the dataset.", show_default="validation")
    ] = "",
    cases: Annotated[
        str,
        typer.Option(
            "--cases",
            metavar="N|ID,...|all",
            help="How many, or which.",
            show_default="4; with --adversarial all it holds",
        ),
    ] = "",
    protocol: ProtocolName = "robustvox-1",
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Checkpoints = None,
    untrained: Untrained = False,
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Write adversarial NIfTI files.")
    ] = False,
    units: Annotated[
        str, typer.Option("--units", help="Intensities of saved files: unit or original.")
    ] = "unit",
    sw_batch_size: Annotated[int, typer.Option("--sw-batch-size", help="Windows per forward.", min=1)] = 4,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes on this machine.", min=0)
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Dask scheduler.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="ATTACK", help="Give the others this attack's distortion, per case."),
    ] = None,
    match_on: Annotated[
        str | None, typer.Option("--match-on", metavar="l2|ssim", help="What --match equates; default l2.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Measure again what is recorded.")] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write an HTML report of this run.")
    ] = True,
    out: Out = Path("results"),
) -> int:
    """Attack models on a dataset, record every case, print and write the tables and a report."""
    from ..plan.cases import EVERY_SPLIT
    from ..specs.requests import RunRequest
    from .commands.run import run_benchmark

    request = RunRequest(
        models=tuple(model),
        attacks=tuple(attack),
        targets=tuple(target or ()),
        transfer=transfer,
        adversarial=adversarial,
        dataset=dataset,
        data_root=data_root,
        split=split or (EVERY_SPLIT if adversarial else "validation"),
        cases=cases or ("all" if adversarial else "4"),
        protocol=protocol,
        seed=seed,
        device=device,
        checkpoints=tuple(checkpoint or ()),
        untrained=untrained,
        save_adversarial=save_adversarial,
        units=units,
        sw_batch_size=sw_batch_size,
        workers=workers,
        scheduler=scheduler,
        recompute=recompute,
        report=report,
        match=match,
        match_on=match_on,
        out=out,
    )
    return run_benchmark(request)
