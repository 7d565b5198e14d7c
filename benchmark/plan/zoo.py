"""Where the weights of a name lie: in the zoo that comes with the code, else among those trained here."""

from __future__ import annotations

from pathlib import Path

from robustvox.datasets import Dataset
from robustvox.models import ZOO

from ..records.sources import path_of, zoo_name
from ..specs.options import RUNS
from ..specs.program import pasted

OWN_ZOO = RUNS / "zoo"
"""What ``train`` writes by default; it never touches the zoo of the code."""


def zoo_file(dataset: Dataset, name: str) -> Path:
    """The checkpoint ``NAME.safetensors`` of a dataset; the code's own before one trained here.

    Example:
        >>> from robustvox.datasets import open_dataset
        >>> zoo_file(open_dataset("phantom"), "no_such_network").as_posix()
        'runs/zoo/phantom/no_such_network.safetensors'
    """
    file = Path(zoo_name(dataset)) / f"{name}.safetensors"
    return ZOO / file if (ZOO / file).is_file() else OWN_ZOO / file


def zoo_files() -> list[Path]:
    """Every checkpoint of both, the code's first."""
    return [path for zoo in (ZOO, OWN_ZOO) for path in sorted(zoo.glob("*/*.safetensors"))]


def training_command(name: str, defence: str, dataset: Dataset) -> str:
    """The command that trains a model."""
    given = path_of(dataset)
    words = ["train", "--model", name, "--dataset", dataset.name if given is None else str(given)]
    return pasted([*words, *(("--defence", defence) if defence else ())])
