"""Named, frozen protocols: what a number in a table means. A change needs a new name, never an edit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How volumes are predicted, attacked and scored.

    Args:
        name: goes into every record and table row.
        overlap: share of a window covered by its neighbor.
        mode: blending weights of the sliding window.
    """

    name: str
    overlap: float
    mode: str


PROTOCOLS: dict[str, Protocol] = {
    # The attack differentiates through the same overlapping window that is scored; foreground classes only;
    # distances in mm; float32 throughout; best iterate; per-case seeds; budgets measured.
    "robustvox-1": Protocol(name="robustvox-1", overlap=0.5, mode="gaussian"),
}
