"""What a run is, in three values: what is crossed, how it is computed, and where and what is written.

Workers get the first two. Other commands that attack take the fields of :data:`CROSSED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .compute import Compute, count_or_auto
from .options import RUNS, SPEC, DataRoot, DatasetName, Device, Json, Option, Out, ProtocolName, RoiSize, Seed
from .protocols import DEFAULT_PROTOCOL
from .spec import UsageError

UNITS = ("unit", "original")
"""Of the intensities in saved files: the attack's [0, 1], or the image's own."""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """What is crossed: models, attacks and cases, by which rules. The numbers depend on this and on nothing else."""

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
        Path | None, Option(metavar="DIR", help="Read these saved volumes with --target instead.")
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
    checkpoints: Annotated[
        tuple[Path, ...], Option(flag="--checkpoint", metavar="FILE", help="One per --model, in order.")
    ] = ()
    model_labels: Annotated[
        tuple[str, ...],
        Option(flag="--label", metavar="NAME", help="What tables call it; one per --model, in order."),
    ] = ()
    untrained: Annotated[bool, Option(help="Allow random weights; flagged in the table.")] = False
    roi_size: RoiSize = None
    match: Annotated[
        str | None, Option(metavar="ATTACK", help="Give the others this attack's distortion, per case.")
    ] = None
    match_on: Annotated[str | None, Option(metavar="l2|ssim", help="What --match equates; default l2.")] = (
        None
    )
    # Nobody types it: what the results call a dataset that was given by its path, for the workers of a run.
    dataset_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How it is computed: where, in what precision, by how many."""

    device: Device = "auto"
    precision: Annotated[
        str, Option(metavar="float32|tf32|bf16", help="Of the network; the attack stays float32.")
    ] = "float32"
    memory: Annotated[
        str, Option(metavar="auto|keep|recompute", help="Windows' graphs until the backward pass.")
    ] = "auto"
    sw_batch_size: Annotated[str, Option(metavar="N|auto", help="Windows per forward.")] = "auto"
    case_batch: Annotated[str, Option(metavar="N|auto", help="Small cases attacked together.")] = "auto"
    cuda_graphs: Annotated[
        str, Option(metavar="auto|off", help="Replay networks that Python slows on a GPU.")
    ] = "auto"
    workers: Annotated[int, Option(metavar="N", help="Processes on this machine, one per card.", least=0)] = 0
    scheduler: Annotated[str | None, Option(metavar="ADDRESS", help="Dask scheduler.")] = None
    wait: Annotated[
        float,
        Option(
            metavar="SECONDS", help="How long for a worker, or for another run to leave the results.", least=0
        ),
    ] = 60.0

    @property
    def compute(self) -> Compute:
        """How the networks run.

        Raises:
            UsageError: for a precision, memory, number of windows or cases, or choice of graphs that cannot be.
        """
        return Compute(
            precision=self.precision.lower(),
            memory=self.memory.lower(),
            sw_batch_size=count_or_auto(self.sw_batch_size),
            case_batch=count_or_auto(self.case_batch),
            cuda_graphs=self.cuda_graphs.lower(),
        )


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Where it is written, and what besides the records.

    Raises:
        UsageError: for units that files are not written in.
    """

    out: Out = RUNS
    save_adversarial: Annotated[bool, Option(help="Write adversarial NIfTI files, and predictions.")] = False
    units: Annotated[str, Option(help="Intensities of saved files: unit or original.")] = "unit"
    recompute: Annotated[bool, Option(help="Measure again what is recorded.")] = False
    report: Annotated[bool, Option(flag="--report/--no-report", help="Write an HTML report of this run.")] = (
        True
    )
    json: Json = False

    def __post_init__(self) -> None:
        if self.units not in UNITS:
            raise UsageError(f"expected --units among {', '.join(UNITS)}, got {self.units!r}")


CROSSED = (
    *("models", "attacks", "dataset", "data_root", "split", "cases", "protocol", "seed"),
    *("checkpoints", "untrained", "roi_size", "device"),
)
"""Options that every command takes which attacks: what is crossed, on which data, by which rules, on what device."""
