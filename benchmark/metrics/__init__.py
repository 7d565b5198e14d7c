"""What a number is, per case and over cases."""

from __future__ import annotations

from .scores import score

__all__ = ["score"]
