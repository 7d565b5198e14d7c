"""Options that more than one command takes, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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


ProtocolName = Annotated[
    str, typer.Option("--protocol", help="robustvox-1, bmvc2024, or NAME:switch=true,... for a variant.")
]


Checkpoints = Annotated[
    list[Path] | None, typer.Option("--checkpoint", metavar="FILE", help="One per --model, in order.")
]


Untrained = Annotated[bool, typer.Option("--untrained", help="Allow random weights; flagged in the table.")]


Seed = Annotated[int, typer.Option("--seed", help="Seed of all noise.")]
