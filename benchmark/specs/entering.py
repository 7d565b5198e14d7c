"""What was asked of the commands by which a model enters the ranking: ``suite``, ``submit``, ``verify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .crossing import Computing, Crossing
from .options import RESULTS, RUNS, SPEC, DataRoot, Device, Option, Out, ProtocolName, RoiSize
from .protocols import DEFAULT_PROTOCOL


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """The command line of ``suite``: the models of a run; attacks, cases and seed are the suite's."""

    crossing: Crossing
    computing: Computing
    known: Annotated[
        Path, Option(metavar="DIR", help="Rows and checks that are recorded here are not made again.")
    ] = RESULTS
    checks: Annotated[
        bool, Option(flag="--checks/--no-checks", help="Also the sanity checks that the suite asks for.")
    ] = True
    queries: Annotated[int, Option(help="Forwards of the gradient-free probe C8.", least=1)] = 1000
    out: Out = RUNS


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """The command line of ``submit`` as written."""

    run: Annotated[Path, Option(argument=True, metavar="RUN", help="What `suite --out RUN` recorded.")] = RUNS
    card: Annotated[
        Path | None,
        Option(metavar="FILE", help="The filled-in card. Default: card.json in the submission, made blank."),
    ] = None
    checkpoints: Annotated[
        tuple[Path, ...], Option(flag="--checkpoint", metavar="FILE", help="The network's weights.")
    ] = ()
    protocol: ProtocolName = DEFAULT_PROTOCOL
    out: Annotated[Path, Option(metavar="DIR", help="Folder of submissions.")] = RUNS / "submissions"


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """The command line of ``verify`` as written; see ``python -m benchmark verify --help``."""

    records: Annotated[
        Path,
        Option(argument=True, metavar="RECORDS", help="results, results/<dataset>, or a records folder."),
    ]
    sample: Annotated[int, Option(metavar="N", help="Rows to recompute.", least=0)] = 5
    seed: Annotated[int, Option(help="Which rows are drawn, together with the hash of the records.")] = 0
    dataset: Annotated[str | None, Option(metavar="NAME|PATH", help="Where the dataset is, if a folder.")] = (
        None
    )
    data_root: DataRoot = None
    checkpoints: Annotated[
        tuple[Path, ...],
        Option(flag="--checkpoint", metavar="FILE", help="A submitted checkpoint; may repeat."),
    ] = ()
    models: Annotated[
        tuple[str, ...],
        Option(
            flag="--model",
            metavar=SPEC,
            help="A factory or path of your own that the records name and that may be used; may repeat.",
        ),
    ] = ()
    attacks: Annotated[
        tuple[str, ...],
        Option(
            flag="--attack",
            metavar="MODULE:NAME",
            help="An attack class of your own that the records name and that may be imported; may repeat.",
        ),
    ] = ()
    max_cost: Annotated[
        int,
        Option(metavar="N", help="Forward and backward passes a row may take; ensemble takes 1010.", least=1),
    ] = 5000
    roi_size: RoiSize = None
    device: Device = "auto"
