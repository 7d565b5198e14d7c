"""What an adapter gives back."""

from __future__ import annotations

from dataclasses import dataclass

from .target import InputSpec, Segmenter
from .weights import Weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A network with its weights and what it wants to see.

    Args:
        segmenter: in eval mode.
        spec: of its input.
        weights: what was read.
        notes: what the user should know, one sentence each.
    """

    segmenter: Segmenter
    spec: InputSpec
    weights: Weights
    notes: tuple[str, ...] = ()
