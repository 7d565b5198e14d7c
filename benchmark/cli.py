"""The command line: ``python -m benchmark`` and ``robustvox``. Heavy imports happen inside the commands."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .specs import UsageError

DONE, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
# Typer brings its own copy of click from 0.20 on; this is ClickException of whichever it uses.
ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="robustvox",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial robustness benchmark for 3D medical segmentation. Without a command, `run` is meant.",
)

Models = Annotated[
    list[str], typer.Option("--model", metavar="NAME[:k=v,...]", help="Attacked model; may repeat.")
]
Attacks = Annotated[list[str], typer.Option("--attack", metavar="NAME[:k=v,...]", help="Attack; may repeat.")]
DatasetName = Annotated[
    str, typer.Option("--dataset", metavar="NAME|PATH", help="Registry name or MSD folder.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="ROBUSTVOX_DATA", metavar="DIR", help="Where datasets lie."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of records and tables.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Split = Annotated[str, typer.Option("--split", help="Split of the dataset.")]
Cases = Annotated[str, typer.Option("--cases", metavar="N|ID,...|all", help="How many, or which.")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="Named protocol.")]
Checkpoints = Annotated[
    list[Path] | None, typer.Option("--checkpoint", metavar="FILE", help="One per --model, in order.")
]
Untrained = Annotated[bool, typer.Option("--untrained", help="Allow random weights; flagged in the table.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all noise.")]


@app.command()
def run(
    model: Models,
    attack: Attacks,
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="NAME", help="Scored model; may repeat.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Score every model on every other's volumes.")
    ] = False,
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    split: Split = "validation",
    cases: Cases = "4",
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
    out: Out = Path("results"),
) -> int:
    """Attack models on a dataset, record every case, print and write the tables."""
    from .running import RunRequest, run_benchmark

    request = RunRequest(
        models=tuple(model),
        attacks=tuple(attack),
        targets=tuple(target or ()),
        transfer=transfer,
        dataset=dataset,
        data_root=data_root,
        split=split,
        cases=cases,
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
        match=match,
        match_on=match_on,
        out=out,
    )
    return run_benchmark(request)


@app.command()
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
    from .running import RunRequest
    from .sanity.command import CheckRequest, check_benchmark

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


@app.command()
def train(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME[:k=v,...]", help="Architecture; small by default.")
    ],
    dataset: DatasetName = "phantom",
    data_root: DataRoot = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Windows per step.", min=1)] = 2,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.", min=0.0)] = 2e-3,
    adversarial: Annotated[
        str | None,
        typer.Option("--adversarial", metavar="ATTACK", help="Train on volumes attacked on the fly."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="Where to write; default models/zoo.")
    ] = None,
) -> int:
    """Train one network with the zoo's recipe and write its checkpoint."""
    from .training import TrainRequest, train_model

    return train_model(
        TrainRequest(
            model=model,
            dataset=dataset,
            data_root=data_root,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            adversarial=adversarial,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
        )
    )


@app.command()
def leaderboard(
    check: Annotated[bool, typer.Option("--check", help="Only compare; fail when a table differs.")] = False,
    out: Out = Path("results"),
) -> int:
    """Rebuild every table from the committed records."""
    from .tables import check as differences
    from .tables import render, write

    if not out.is_dir():
        raise UsageError(
            f"expected a results folder at {out}, found none; run a benchmark first or correct --out"
        )
    if not check:
        write(out)
        for path in render(out):
            typer.echo(path)
        return DONE
    found = differences(out)
    for text in found:
        typer.echo(text)
    typer.echo(
        f"{out}: {len(found)} files differ from the records" if found else f"{out}: tables match the records"
    )
    return SOME_FAILED if found else DONE


@app.command()
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
    from .data_command import verify_data

    return verify_data(dataset, data_root, splits=tuple(split or ()), download=download, out=out)


@app.command("list")
def list_registries() -> int:
    """Show models, attacks, datasets, protocols and the checkpoints of the zoo."""
    from .listing import show

    show()
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code and never shows a traceback for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = [
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    ]
    if not arguments:
        arguments = ["--help"]
    elif arguments[0].startswith("-") and arguments[0] != "--help":
        arguments.insert(0, "run")
    elif arguments[0] not in commands and arguments[0] != "--help":
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        return _usage(
            f"unknown command {arguments[0]!r}; " + (f"did you mean {near[0]}?" if near else "see --help")
        )
    try:
        code = app(args=arguments, prog_name="python -m benchmark", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except ClickException as error:
        return _usage(error.format_message())
    except UsageError as error:
        return _usage(str(error))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; finished cases are recorded, the same command continues", err=True)
        return INTERRUPTED


def _usage(message: str) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return USAGE


def console_script() -> None:
    """What the ``robustvox`` script calls."""
    raise SystemExit(main())
