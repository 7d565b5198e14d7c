"""What was asked of a command, as plain values. Every field that can be typed says here what its option is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from .compute import Compute, count_or_auto
from .protocols import DEFAULT_PROTOCOL

SPEC = "NAME[:k=v,...]"


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a field is typed on the command line.

    Attributes:
        help: one sentence.
        flag: its name, where it is not that of the field; an ``--a/--no-a`` pair for a switch that is on.
        metavar: what stands for the value in the help.
        env: environment variable that gives the default.
        least: smallest number.
        shown: what the help shows as the default.
        argument: typed without a flag.
    """

    help: str
    flag: str | None = None
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
Out = Annotated[Path, Option(metavar="DIR", help="Folder of records and tables.")]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The command line of ``run`` as written; see ``python -m benchmark run --help``."""

    models: Annotated[
        tuple[str, ...], Option(flag="--model", metavar=SPEC, help="Attacked model; may repeat.")
    ] = ()
    attacks: Annotated[
        tuple[str, ...], Option(flag="--attack", metavar=SPEC, help="Attack; may repeat.")
    ] = ()
    targets: Annotated[
        tuple[str, ...],
        Option(flag="--target", metavar="NAME", help="Scored model; may repeat. Default: the attacked one."),
    ] = ()
    transfer: Annotated[bool, Option(help="Score every model on every other's volumes.")] = False
    adversarial: Annotated[
        Path | None, Option(metavar="DIR", help="Score these saved volumes on --target instead.")
    ] = None
    dataset: DatasetName = "phantom"
    data_root: DataRoot = None
    split: Annotated[str, Option(help="Split of the dataset.", shown="validation")] = ""
    cases: Annotated[
        str,
        Option(
            metavar="N|first:N|ID,...|all",
            help="How many, or which.",
            shown="4; with --adversarial all it holds",
        ),
    ] = ""
    protocol: ProtocolName = DEFAULT_PROTOCOL
    seed: Seed = 0
    device: Device = "auto"
    checkpoints: Annotated[
        tuple[Path, ...], Option(flag="--checkpoint", metavar="FILE", help="One per --model, in order.")
    ] = ()
    untrained: Annotated[bool, Option(help="Allow random weights; flagged in the table.")] = False
    roi_size: RoiSize = None
    save_adversarial: Annotated[bool, Option(help="Write adversarial NIfTI files.")] = False
    units: Annotated[str, Option(help="Intensities of saved files: unit or original.")] = "unit"
    precision: Annotated[
        str, Option(metavar="float32|tf32|bf16", help="Of the network; the attack stays float32.")
    ] = "float32"
    memory: Annotated[
        str, Option(metavar="auto|keep|recompute", help="Windows' graphs until the backward pass.")
    ] = "auto"
    sw_batch_size: Annotated[str, Option(metavar="N|auto", help="Windows per forward.")] = "auto"
    workers: Annotated[int, Option(metavar="N", help="Processes on this machine.", least=0)] = 0
    scheduler: Annotated[str | None, Option(metavar="ADDRESS", help="Dask scheduler.")] = None
    match: Annotated[
        str | None, Option(metavar="ATTACK", help="Give the others this attack's distortion, per case.")
    ] = None
    match_on: Annotated[str | None, Option(metavar="l2|ssim", help="What --match equates; default l2.")] = (
        None
    )
    recompute: Annotated[bool, Option(help="Measure again what is recorded.")] = False
    report: Annotated[bool, Option(flag="--report/--no-report", help="Write an HTML report of this run.")] = (
        True
    )
    out: Out = Path("results")
    # Nobody types it: what the results call a dataset that was given by its path, for the workers of a run.
    dataset_name: str | None = None

    @property
    def compute(self) -> Compute:
        """How the networks run.

        Raises:
            UsageError: for a precision, memory or number of windows that cannot be.
        """
        windows = count_or_auto(self.sw_batch_size)
        return Compute(precision=self.precision.lower(), memory=self.memory.lower(), sw_batch_size=windows)


CROSSED = (
    *("models", "attacks", "dataset", "data_root", "split", "cases", "protocol", "seed", "device"),
    *("checkpoints", "untrained", "roi_size", "out"),
)
"""Fields of a run that every command takes which attacks: what is crossed, on which data, by which rules."""


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """The command line of ``check``: the models, attacks, cases and folders of a run, and what is checked."""

    run: RunRequest
    only: Annotated[str, Option(metavar="C2,...", help="Ids or names of checks.")] = ""
    queries: Annotated[int, Option(help="Forwards of the gradient-free probe C8.", least=1)] = 1000


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """The command line of ``figures``: the models, attacks and cases of a run, its records, and where to.

    Args:
        run: what a run would be; without models and attacks only the records are drawn.
        folder: of the figures; ``<dataset>/`` is made in it.
        formats: among :data:`~robustvox.benchmark.show.figures.canvas.FORMATS`, with commas.
        convention: among :data:`~robustvox.benchmark.show.figures.planes.CONVENTIONS`.
    """

    run: RunRequest
    formats: Annotated[str, Option(flag="--format", metavar="png,svg,pdf", help="File formats.")] = "png,svg"
    convention: Annotated[str, Option(help="Slices radiological or neurological.")] = "radiological"
    folder: Annotated[Path, Option(flag="--out", metavar="DIR", help="Folder of the figures.")] = Path(
        "figures"
    )


@dataclass(frozen=True, kw_only=True)
class FrequencyRequest:
    """The command line of ``frequency`` as written; ``run`` says what is attacked, or which files are read."""

    run: RunRequest
    kinds: Annotated[
        tuple[str, ...],
        Option(
            flag="--bands", metavar="cube|low_high|radial", help="Kind of band; may repeat. Default: all."
        ),
    ] = ()
    cuts: Annotated[
        str, Option(metavar="8/96,...", help="Shares of Nyquist where low_high and radial cut.")
    ] = ""
    rescale: Annotated[
        tuple[str, ...],
        Option(metavar="none|linf|l2", help="Norm every band gets back; may repeat. Default: none."),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """The command line of ``compare`` as written."""

    models: Annotated[
        tuple[str, ...],
        Option(flag="--model", metavar="NAME[@HASH]", help="Give two; the first minus the second."),
    ]
    attacks: Annotated[
        tuple[str, ...],
        Option(
            flag="--attack",
            metavar=SPEC,
            help="Attack; may repeat; `none` is the clean volume. Default: every one recorded for both.",
        ),
    ] = ()
    dataset: DatasetName = "phantom"
    protocol: ProtocolName = DEFAULT_PROTOCOL
    metric: Annotated[str, Option(help="dice, hd95_mm or nsd.")] = "dice"
    csv: Annotated[Path | None, Option(metavar="FILE", help="Write the unrounded table too.")] = None
    out: Out = Path("results")


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The command line of ``train`` as written; see ``python -m benchmark train --help``."""

    model: Annotated[str, Option(metavar=SPEC, help="Architecture; small by default.")]
    dataset: DatasetName = "phantom"
    data_root: DataRoot = None
    steps: Annotated[int, Option(help="Optimizer steps.", least=1)] = 1000
    batch_size: Annotated[int, Option(help="Windows per step.", least=1)] = 2
    lr: Annotated[float, Option(help="Peak learning rate.", least=0.0)] = 2e-3
    adversarial: Annotated[
        str | None, Option(metavar="ATTACK", help="Train on volumes attacked on the fly.")
    ] = None
    seed: Seed = 0
    device: Device = "auto"
    checkpoint: Annotated[Path | None, Option(metavar="FILE", help="Where to write; default models/zoo.")] = (
        None
    )
    roi_size: RoiSize = None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """The command line of ``verify`` as written; see ``python -m benchmark verify --help``."""

    records: Annotated[
        Path,
        Option(argument=True, metavar="RECORDS", help="results, results/<dataset>, or a records folder."),
    ]
    sample: Annotated[int, Option(metavar="N", help="Rows to recompute.", least=0)] = 5
    seed: Annotated[int, Option(help="Which rows are drawn.")] = 0
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
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """The command line of ``data`` as written."""

    dataset: DatasetName = "phantom"
    data_root: DataRoot = None
    splits: Annotated[
        tuple[str, ...], Option(flag="--split", help="Split to verify; may repeat. Default: all.")
    ] = ()
    download: Annotated[bool, Option(help="Fetch an MSD task first.")] = False
    out: Annotated[Path | None, Option(metavar="FILE", help="Keep the findings as JSON.")] = None


_NAMED = Option(metavar="NAME", help="May repeat.")


@dataclass(frozen=True, kw_only=True)
class CiteRequest:
    """The command line of ``cite`` as written; without names everything that the records used is meant."""

    models: Annotated[tuple[str, ...], replace(_NAMED, flag="--model")] = ()
    attacks: Annotated[tuple[str, ...], replace(_NAMED, flag="--attack")] = ()
    datasets: Annotated[tuple[str, ...], replace(_NAMED, flag="--dataset")] = ()
    out: Out = Path("results")


@dataclass(frozen=True, kw_only=True)
class LeaderboardRequest:
    """The command line of ``leaderboard`` as written."""

    check: Annotated[bool, Option(help="Only compare; fail when a table differs.")] = False
    out: Out = Path("results")
