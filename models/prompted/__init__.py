"""Networks that others trained, as targets: with or without prompts, in their own intensities, spacing and classes.

``TARGETS`` says what there is; :func:`open_target` loads one with the user's weights, strictly by name; its model
makes an ordinary differentiable module per case.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .catalog import COMMON, TARGETS, TargetEntry

if TYPE_CHECKING:
    from .opening import OpenedTarget, open_target
    from .target import Case, Inference, PromptedModel, PromptedTarget

__all__ = [
    "COMMON",
    "TARGETS",
    "Case",
    "Inference",
    "OpenedTarget",
    "PromptedModel",
    "PromptedTarget",
    "TargetEntry",
    "open_target",
]

_LAZY = {
    "Case": ".target",
    "Inference": ".target",
    "OpenedTarget": ".opening",
    "PromptedModel": ".target",
    "PromptedTarget": ".target",
    "open_target": ".opening",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
