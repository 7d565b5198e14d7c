"""Sanity checks of one model under one attack: is the number in the table worth believing?

C0 to C27 follow the checklists of Carlini et al., arXiv 1902.06705, and AutoAttack, arXiv 2003.01690, in the
form that fits segmentation. Not computed here, because nothing about a model or an attack could break them: C19
(per-case rows, intervals, counts, cost and seeds) is the format of the records; the transfer half of C5 (white
box against black box) is a comparison of two tables.

    from robustvox.benchmark import run_checks

    for result in run_checks(model, attack, volumes, num_classes=3):
        print(result.id, result.status, result.number, result.detail)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Check, Result
    from .registry import CHECKS
    from .runner import run_checks


_HOME = {"Check": "base", "Result": "base", "CHECKS": "registry", "run_checks": "runner"}


__all__ = ["CHECKS", "Check", "Result", "run_checks"]


def __getattr__(name: str) -> Any:
    # Lazy: naming a check needs no torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
