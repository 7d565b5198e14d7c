"""Durations in words, for reports and logs."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """How long something takes, as people say it.

    Example:
        >>> duration(42), duration(1500), duration(30000)
        ('42.0 s', '25 min 0 s', '8 h 20 min')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 120 else f"{minutes} min {rest} s"
