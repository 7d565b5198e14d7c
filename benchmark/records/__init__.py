"""All that is kept below ``results/``."""

from __future__ import annotations

from .reading import Records, load_records
from .store import RecordStore
from .unit import RecordsError, Unit

__all__ = ["RecordStore", "Records", "RecordsError", "Unit", "load_records"]
