"""The harness: crosses models, attacks and datasets, writes records and tables.

Example:
    >>> from robustvox.attacks import PGD
    >>> from robustvox.benchmark import evaluate
    >>> from robustvox.datasets import open_dataset
    >>> from robustvox.models import build_model
    >>> phantom = open_dataset("phantom")
    >>> network = build_model("unet", in_channels=1, num_classes=8, roi_size=(48, 32, 32), size="small")
    >>> table = evaluate({"mine": network}, {"pgd": PGD(steps=1, alpha=8 / 255)}, phantom, cases=["val_000"])
    >>> int(table.loc[0, "n_cases"])
    1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluation import evaluate
    from .metrics.scores import score


__all__ = ["evaluate", "score"]


def __getattr__(name: str) -> Any:
    # Absolute, because this file is also `benchmark` in the clone, before __main__ hands over.
    if name == "evaluate":
        from .evaluation import evaluate

        return evaluate
    if name == "score":
        from .metrics.scores import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
