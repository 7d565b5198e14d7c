"""``--json``: rows for another program on standard output, everything for people on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

Emit = Callable[[Iterable[Mapping[Any, Any]]], None]
"""Takes rows, plain values by column."""


@contextmanager
def json_rows(wanted: bool) -> Iterator[Emit]:
    """While it is open only the rows given to what it yields reach standard output, a JSON object a line.

    What else is printed, by models and attacks of other people too, goes to standard error. Without ``--json`` nothing
    is redirected and rows are dropped.

    Args:
        wanted: whether ``--json`` was given.

    Example:
        >>> with json_rows(True) as emit:
        ...     emit([{"attack": "none", "dice": 0.5, "interval": float("nan")}])
        {"attack": "none", "dice": 0.5, "interval": null}
    """
    if not wanted:
        yield lambda rows: None  # noqa: ARG005
        return
    output = sys.stdout

    def emit(rows: Iterable[Mapping[Any, Any]]) -> None:
        for row in rows:
            plain = {str(name): _plain(value) for name, value in row.items()}
            output.write(json.dumps(plain, ensure_ascii=True, allow_nan=False) + "\n")
        output.flush()  # before the command ends, so that a reader sees them when they are there

    with redirect_stdout(sys.stderr):
        yield emit


def _plain(value: Any) -> Any:
    """A value as JSON has it: NumPy's numbers are Python's, and what was not measured or has no end is null."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
