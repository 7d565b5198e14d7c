"""The ``run`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import RunRequest
from .options import command


@command(RunRequest)
def run(request: RunRequest) -> int:
    """Attack models on a dataset, record every case, print and write the tables and a report."""
    from .commands.run import run_benchmark

    return run_benchmark(request, beside=True)
