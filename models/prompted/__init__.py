"""Networks that others trained, as targets: with or without prompts, in their own intensities, spacing and classes.

``TARGETS`` says what there is; :func:`open_target` loads one with the user's weights, strictly by name; its model
makes an ordinary differentiable module per case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names
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

__getattr__ = lazy_names(
    __name__,
    {
        "Case": ".target",
        "Inference": ".target",
        "OpenedTarget": ".opening",
        "PromptedModel": ".target",
        "PromptedTarget": ".target",
        "open_target": ".opening",
    },
)
