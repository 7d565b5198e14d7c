"""How a field of a request is typed on the command line, and the options that several requests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

SPEC = "NAME[:k=v,...]"

RUNS = Path("runs")
"""Where everything that is computed goes: yours, ignored by git."""

RESULTS = Path("results")
"""What is published: written by ``leaderboard`` alone, read by the commands that compare and show."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a field is typed on the command line.

    Attributes:
        help: one sentence.
        flag: its name, where it is not that of the field; an ``--a/--no-a`` pair for a switch that is on.
        short: one letter that says the same, ``-q``.
        metavar: what stands for the value in the help.
        env: environment variable that gives the default.
        least: smallest number.
        shown: what the help shows as the default.
        argument: typed without a flag.
    """

    help: str
    flag: str | None = None
    short: str | None = None
    metavar: str | None = None
    env: str | None = None
    least: float | None = None
    shown: str | None = None
    argument: bool = False


DatasetName = Annotated[
    str, Option(flag="--dataset", metavar="NAME|PATH", help="Registry name, or a folder or list of your own.")
]
DataRoot = Annotated[
    Path | None,
    Option(flag="--data-root", env="ROBUSTVOX_DATA", metavar="DIR", help="Where datasets lie."),
]
ProtocolName = Annotated[
    str,
    Option(flag="--protocol", help="robustvox-1, bmvc2024, or NAME:switch=true,... for a variant."),
]
Seed = Annotated[int, Option(help="Seed of all noise.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")]
RoiSize = Annotated[
    str | None,
    Option(metavar="N|X,Y,Z", help="Window of a network that tells none.", shown="what the volumes need"),
]
Json = Annotated[
    bool,
    Option(flag="--json", help="Rows alone on standard output, a JSON object a line; the rest on stderr."),
]
Out = Annotated[Path, Option(metavar="DIR", help="Folder of records and tables.")]
