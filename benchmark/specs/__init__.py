"""What is asked, as plain values; nothing here needs torch."""

from __future__ import annotations

from .protocols import PROTOCOLS, Protocol, find_protocol
from .spec import Spec, UsageError

__all__ = ["PROTOCOLS", "Protocol", "Spec", "UsageError", "find_protocol"]
