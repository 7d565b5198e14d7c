"""Which of the data's cases each fold of an nnU-Net model was trained on, and which it held out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of a training, among the cases of the data. Who knows the data finds them; a model is told.

    Args:
        held_out: case ids that each fold was validated on.
        trained_on: case ids that each fold was trained on.
        source: where that is known from.
    """

    held_out: tuple[frozenset[str], ...]
    trained_on: tuple[frozenset[str], ...]
    source: str

    def of(self, name: str) -> tuple[frozenset[str], frozenset[str]] | None:
        """Held out and trained on by the fold ``name``; None for a number that is no fold."""
        if name == "all":
            everything = frozenset().union(*self.held_out, *self.trained_on)
            return frozenset(), everything
        if not name.isdigit() or int(name) >= len(self.held_out):
            return None
        return self.held_out[int(name)], self.trained_on[int(name)]
