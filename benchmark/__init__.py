"""The harness: crosses models, attacks and datasets, writes records and tables.

What stands in ``__all__`` is the public face; everything else may move.

Example:
    >>> from robustvox.attacks import PGD
    >>> from robustvox.benchmark import evaluate
    >>> from robustvox.datasets import open_dataset
    >>> from robustvox.models import build_model
    >>> phantom = open_dataset("phantom")
    >>> network = build_model("unet", in_channels=1, num_classes=8, roi_size=(48, 32, 32), size="small")
    >>> found = evaluate({"mine": network}, {"pgd": PGD(steps=1, alpha=8 / 255)}, phantom, cases=["val_000"])
    >>> int(found.table.loc[0, "n_cases"])
    1
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cli.commands.run import run_benchmark
    from .evaluation import evaluate
    from .metrics.scores import score
    from .records.reading import load_records
    from .records.seal import seal_array, unlock_array
    from .show.evaluation import Evaluation
    from .specs.crossing import Computing, Crossing, Writing
    from .specs.requests import RunRequest
    from .studies.comparison import compare_models
    from .studies.sanity.runner import run_checks

__all__ = [
    "Computing",
    "Crossing",
    "Evaluation",
    "RunRequest",
    "Writing",
    "compare_models",
    "evaluate",
    "load_records",
    "run_benchmark",
    "run_checks",
    "score",
    "seal_array",
    "unlock_array",
]

_HOME = {
    "evaluate": "evaluation",
    "Evaluation": "show.evaluation",
    "score": "metrics.scores",
    "load_records": "records.reading",
    "compare_models": "studies.comparison",
    "Computing": "specs.crossing",
    "Crossing": "specs.crossing",
    "RunRequest": "specs.requests",
    "Writing": "specs.crossing",
    "run_benchmark": "cli.commands.run",
    "run_checks": "studies.sanity.runner",
    "seal_array": "records.seal",
    "unlock_array": "records.seal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Absolute, because this file is also `benchmark` in the clone, before __main__ hands over.
    return getattr(importlib.import_module(f"robustvox.benchmark.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
