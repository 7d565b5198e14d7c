"""What a model that cannot be used raises."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says expected, found, remedy."""
