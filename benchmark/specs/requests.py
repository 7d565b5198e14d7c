"""What was asked of a command, as plain values. Every field that can be typed says here what its option is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from .crossing import Computing, Crossing, Writing
from .options import (
    RESULTS,
    RUNS,
    SPEC,
    DataRoot,
    DatasetName,
    Device,
    Json,
    Option,
    Out,
    ProtocolName,
    RoiSize,
    Seed,
)
from .protocols import DEFAULT_PROTOCOL
from .spec import UsageError


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The command line of ``run`` as written; see ``python -m benchmark run --help``.

    Raises:
        UsageError: volumes that are on the disk are to be saved; little and much is to be said.
    """

    crossing: Crossing
    computing: Computing
    writing: Writing
    quiet: Annotated[bool, Option(short="-q", help="Tables and failures only.")] = False
    verbose: Annotated[bool, Option(short="-v", help="A line for every finished attack.")] = False
    dry_run: Annotated[bool, Option(help="Show the plan and what it costs; compute nothing.")] = False
    config: Annotated[
        Path | None,
        Option(metavar="FILE", help="YAML of these options, lists are crossed; what is typed besides wins."),
    ] = None

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UsageError("expected --quiet or --verbose, got both; leave one out")
        if self.crossing.adversarial is not None and self.writing.save_adversarial:
            raise UsageError(
                "expected --adversarial DIR alone, whose volumes are saved already, got --save-adversarial"
            )


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """The command line of ``check``: the models, attacks, cases and folders of a run, and what is checked."""

    crossing: Crossing
    computing: Computing
    only: Annotated[str, Option(metavar="C2,...", help="Ids or names of checks.")] = ""
    queries: Annotated[int, Option(help="Forwards of the gradient-free probe C8.", least=1)] = 1000
    json: Json = False
    out: Out = RUNS


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """The command line of ``figures``: the models, attacks and cases of a run, its records, and where to.

    Args:
        crossing: what a run would be; without models and attacks only the records are drawn.
        computing: how the attacks run again.
        results: where the records are.
        ranking: whether instead the best and the worst model of the ranking are drawn, for the page.
        folder: of the figures; ``<dataset>/`` is made in it.
        formats: among :data:`~robustvox.benchmark.show.figures.canvas.FORMATS`, with commas.
        convention: among :data:`~robustvox.benchmark.show.figures.planes.CONVENTIONS`.
    """

    crossing: Crossing
    computing: Computing
    results: Annotated[Path, Option(metavar="DIR", help="Folder of records and tables.")] = RESULTS
    formats: Annotated[str, Option(flag="--format", metavar="png,svg,pdf", help="File formats.")] = "png,svg"
    convention: Annotated[str, Option(help="Slices radiological or neurological.")] = "radiological"
    ranking: Annotated[
        bool, Option(help="Only the best and the worst ranked model, for the page of --results.")
    ] = False
    folder: Annotated[Path, Option(flag="--out", metavar="DIR", help="Folder of the figures.")] = Path(
        "figures"
    )


@dataclass(frozen=True, kw_only=True)
class ViewRequest:
    """The command line of ``view``: cases, and which of their attacks.

    Args:
        crossing: data, and models and attacks, or a folder of saved volumes, or neither for what a run has saved; its
            ``cases`` are ``ids``.
        computing: how the attacks run again.
        ids: of the cases.
        results: where a run has left records, volumes and predictions.
        convention: among :data:`~robustvox.benchmark.show.figures.planes.CONVENTIONS`.
        folder: of the pages; ``<dataset>/`` is made in it.
    """

    crossing: Crossing
    computing: Computing
    ids: Annotated[tuple[str, ...], Option(argument=True, metavar="CASE", help="Case ids; may repeat.")] = ()
    results: Annotated[Path, Option(metavar="DIR", help="Folder of a run: volumes, records.")] = RUNS
    convention: Annotated[str, Option(help="Opens radiological or neurological.")] = "radiological"
    folder: Annotated[Path, Option(flag="--out", metavar="DIR", help="Folder of the pages.")] = Path("views")


@dataclass(frozen=True, kw_only=True)
class FrequencyRequest:
    """The command line of ``frequency`` as written; ``crossing`` says what is attacked, or which files are read."""

    crossing: Crossing
    computing: Computing
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
    out: Out = RUNS


@dataclass(frozen=True, kw_only=True)
class StealRequest:
    """The command line of ``steal`` as written; see ``python -m benchmark steal --help``."""

    model: Annotated[str, Option(metavar=SPEC, help="Architecture of the victim; small by default.")]
    dataset: DatasetName = "hippocampus"
    data_root: DataRoot = None
    shift: Annotated[
        str,
        Option(metavar="NAME:VALUE,...", help="The thief's scanner: edge, psf_mm, noise, bias, gamma, ..."),
    ] = "edge:6"
    queries: Annotated[int, Option(help="Volumes that the victim answers.", least=2)] = 38
    seeds: Annotated[
        tuple[int, ...], Option(flag="--seed", help="Patients and weights of the thief; may repeat.")
    ] = (0,)
    thief: Annotated[str, Option(metavar=SPEC, help="Architecture of the copy; small by default.")] = (
        "unet:num_res_units=0"
    )
    rounds: Annotated[int, Option(help="Rounds of asking and calibrating.", least=1)] = 1
    steps: Annotated[int, Option(help="Optimizer steps of the copy.", least=1)] = 400
    calibration: Annotated[
        str, Option(metavar="population|phantom", help="Whose spectra the filter is made of.")
    ] = "population"
    checkpoint: Annotated[
        Path | None, Option(metavar="FILE", help="A trained victim; default: one is trained.")
    ] = None
    victim_cases: Annotated[int, Option(help="Training cases of a victim trained here.", least=1)] = 100
    victim_steps: Annotated[int, Option(help="Its optimizer steps.", least=1)] = 1000
    pool: Annotated[int, Option(help="Patients of the thief.", least=2)] = 60
    reference: Annotated[int, Option(help="Public volumes of scanner A.", least=1)] = 5
    cases: Annotated[int, Option(help="Test patients, of the validation split.", least=1)] = 12
    roi_size: Annotated[
        str, Option(metavar="X,Y,Z", help="Window of victim and copy.", shown="the dataset's")
    ] = ""
    others: Annotated[
        tuple[str, ...],
        Option(
            flag="--other",
            metavar="NAME",
            help="Independent network of the zoo; may repeat. Default: segresnet.",
        ),
    ] = ()
    full: Annotated[bool, Option(help="Also more budgets and defences, two rounds, chosen queries.")] = False
    device: Device = "auto"
    out: Out = RUNS


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
    json: Json = False
    out: Out = RESULTS


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The command line of ``train`` as written; see ``python -m benchmark train --help``."""

    model: Annotated[str, Option(metavar=SPEC, help="Architecture; small by default.")]
    dataset: DatasetName = "phantom"
    data_root: DataRoot = None
    steps: Annotated[int, Option(help="Optimizer steps.", least=1)] = 1000
    batch_size: Annotated[int, Option(help="Windows per step.", least=1)] = 2
    lr: Annotated[float, Option(help="Peak learning rate.", least=0.0)] = 2e-3
    turn: Annotated[
        float, Option(help="Degrees that windows are turned by, at most, in the plane of slices.", least=0.0)
    ] = 0.0
    gamma: Annotated[
        float, Option(help="Largest exponent that intensities are raised to, and its inverse.", least=1.0)
    ] = 1.0
    adversarial: Annotated[
        str | None,
        Option(
            metavar="ATTACK", help="Train on nothing but volumes attacked on the fly: pgd_at with share=1."
        ),
    ] = None
    defence: Annotated[
        str | None,
        Option(metavar=SPEC, help="Such as pgd_at:eps=8/255,steps=3; see docs/robust_training.md."),
    ] = None
    start: Annotated[
        Path | None,
        Option(metavar="CHECKPOINT", help="Weights to start from; zoo for the zoo's own of this model."),
    ] = None
    looks: Annotated[int, Option(help="Moments at which a defended network is attacked.", least=1)] = 4
    look_cases: Annotated[int, Option(help="Cases of the end of the validation split for that.", least=1)] = 8
    seed: Seed = 0
    device: Device = "auto"
    checkpoint: Annotated[Path | None, Option(metavar="FILE", help="Where to write; default runs/zoo.")] = (
        None
    )
    roi_size: RoiSize = None
    report: Annotated[
        Path | None, Option(metavar="DIR", help="Write curves and cost of the training there.")
    ] = None


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
    organs: Annotated[
        Path | None,
        Option(metavar="DIR", help="Results folder whose page shall know the sizes of the organs."),
    ] = None


_NAMED = Option(metavar="NAME", help="May repeat.")


@dataclass(frozen=True, kw_only=True)
class CiteRequest:
    """The command line of ``cite`` as written; without names everything that the records used is meant."""

    models: Annotated[tuple[str, ...], replace(_NAMED, flag="--model")] = ()
    attacks: Annotated[tuple[str, ...], replace(_NAMED, flag="--attack")] = ()
    datasets: Annotated[tuple[str, ...], replace(_NAMED, flag="--dataset")] = ()
    studies: Annotated[tuple[str, ...], replace(_NAMED, flag="--study", metavar="COMMAND")] = ()
    out: Out = RESULTS


@dataclass(frozen=True, kw_only=True)
class LeaderboardRequest:
    """The command line of ``leaderboard`` as written."""

    check: Annotated[bool, Option(help="Only compare; fail when a table differs.")] = False
    publish: Annotated[
        Path | None, Option(metavar="RUN", help="Check what a run recorded, and add it to --out.")
    ] = None
    out: Out = RESULTS


@dataclass(frozen=True, kw_only=True)
class MigrateRequest:
    """The command line of ``migrate`` as written."""

    out: Out = RUNS


@dataclass(frozen=True, kw_only=True)
class MarkRequest:
    """The command line of ``mark`` as written; ``crossing`` says on which models, of which dataset."""

    crossing: Crossing
    computing: Computing
    folder: Annotated[Path, Option(argument=True, metavar="FOLDER", help="Folder of NIfTI files.")]
    key_file: Annotated[Path, Option(metavar="FILE", help="The key: at least 16 bytes.")]
    marked: Annotated[Path, Option(flag="--out", metavar="DIR", help="Another folder; file names are kept.")]
    labels: Annotated[
        Path | None,
        Option(metavar="DIR", help="Labels of the same names. Default: what the model predicts."),
    ] = None
    mark: Annotated[str, Option(metavar="SPEC", help="Such as keyed_mark:support=outside,margin_mm=2.")] = (
        "keyed_mark"
    )
    seal: Annotated[
        str, Option(metavar="sidecar|extension", help="CASE.seal beside the file, or in its header.")
    ] = "sidecar"
    cipher: Annotated[
        str, Option(metavar="shake256-hmac|aes-256-gcm", help="The latter needs the package cryptography.")
    ] = "shake256-hmac"


@dataclass(frozen=True, kw_only=True)
class UnlockRequest:
    """The command line of ``unlock`` as written."""

    folder: Annotated[Path, Option(argument=True, metavar="FOLDER", help="Folder of marked files and seals.")]
    key_file: Annotated[Path, Option(metavar="FILE", help="The key they were marked with.")]
    out: Annotated[Path, Option(metavar="DIR", help="Another folder; file names are kept.")]


@dataclass(frozen=True, kw_only=True)
class MarkingRequest:
    """The command line of ``marking``, the study of marks.

    Args:
        crossing: the owner's models, of which marks are made on the first, and on all of them as one; models that are
            only scored; the cases.
        computing: on what device.
        attackers: models on which somebody else trains a remover; by default the owner's first, the worst case.
        marks: which of the marks of the study; by default all.
        seeds: how many keys every case is marked with.
        pairs: volumes of the train split on which a remover is trained.
        remover_steps: gradient steps of that training.
        thorough: whether the later looks are taken, see :class:`~robustvox.benchmark.studies.marking.study.Look`.
        out: of the table and the trained removers.
    """

    crossing: Crossing
    computing: Computing
    attackers: Annotated[
        tuple[str, ...],
        Option(
            flag="--attacker",
            metavar="NAME",
            help="Model a remover is trained with; may repeat. Default: the first --model.",
        ),
    ] = ()
    marks: Annotated[
        tuple[str, ...],
        Option(flag="--mark", metavar="NAME", help="Mark of the study; may repeat. Default: all."),
    ] = ()
    seeds: Annotated[int, Option(help="Keys that every case is marked with.", least=1)] = 3
    pairs: Annotated[int, Option(help="Volumes a remover is trained on.", least=1)] = 16
    remover_steps: Annotated[int, Option(help="Gradient steps of that training.", least=1)] = 600
    thorough: Annotated[
        bool,
        Option(
            flag="--thorough/--no-thorough",
            help="Also train removers, and show every remover of the first mark to every model.",
        ),
    ] = True
    out: Out = RUNS
