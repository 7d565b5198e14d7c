"""What was asked of a command, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """The command line of ``verify`` as written; see ``python -m benchmark verify --help``."""

    records: Path
    sample: int = 5
    seed: int = 0
    data_root: Path | None = None
    dataset: str | None = None
    checkpoints: tuple[Path, ...] = ()
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class FrequencyRequest:
    """The command line of ``frequency`` as written; ``run`` says what is attacked, or which files are read."""

    run: RunRequest
    kinds: tuple[str, ...] = ()
    cuts: str = ""
    rescale: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The command line of ``train`` as written; see ``python -m benchmark train --help``."""

    model: str
    dataset: str = "phantom"
    data_root: Path | None = None
    steps: int = 1000
    batch_size: int = 2
    lr: float = 2e-3
    adversarial: str | None = None
    seed: int = 0
    device: str = "auto"
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The command line of ``run`` as written; see ``python -m benchmark run --help``."""

    models: tuple[str, ...]
    attacks: tuple[str, ...]
    targets: tuple[str, ...] = ()
    transfer: bool = False
    adversarial: Path | None = None
    dataset: str = "phantom"
    data_root: Path | None = None
    split: str = "validation"
    cases: str = "4"
    protocol: str = "robustvox-1"
    seed: int = 0
    device: str = "auto"
    checkpoints: tuple[Path, ...] = ()
    untrained: bool = False
    save_adversarial: bool = False
    units: str = "unit"
    sw_batch_size: int = 4
    workers: int = 0
    scheduler: str | None = None
    recompute: bool = False
    match: str | None = None
    match_on: str | None = None
    report: bool = True
    out: Path = Path("results")


@dataclass(frozen=True)
class CompareRequest:
    """What ``compare`` was asked; see its help."""

    models: Sequence[str]
    attacks: Sequence[str] = ()
    dataset: str = "phantom"
    protocol: str = "robustvox-1"
    metric: str = "dice"
    csv: Path | None = None
    out: Path = Path("results")


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """The command line of ``check``: the models, attacks, cases and folders of a run, and what is checked."""

    run: RunRequest
    only: str = ""
    queries: int = 1000


@dataclass(frozen=True, kw_only=True)
class FiguresRequest:
    """The command line of ``figures``: the models, attacks and cases of a run, its records, and where to.

    Args:
        run: what a run would be; without models and attacks only the records are drawn.
        out: folder of the figures; ``<dataset>/`` is made in it.
        formats: among :data:`~robustvox.benchmark.show.figures.canvas.FORMATS`.
        convention: among :data:`~robustvox.benchmark.show.figures.planes.CONVENTIONS`.
    """

    run: RunRequest
    out: Path = Path("figures")
    formats: tuple[str, ...] = ("png", "svg")
    convention: str = "radiological"
