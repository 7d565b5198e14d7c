"""What may go wrong in one case without ending a run."""

from __future__ import annotations

from robustvox.datasets import DatasetError

CASE_FAILURES = (DatasetError, ValueError, TypeError, RuntimeError, OSError, MemoryError)
"""What one case, attack or network may do to itself; it becomes a failed row and the others go on."""
