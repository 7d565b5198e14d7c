"""What may go wrong in one case without ending a run."""

from __future__ import annotations

from robustvox.datasets.verify import CASE_FAILURES

__all__ = ["CASE_FAILURES"]
