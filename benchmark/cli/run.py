"""The ``run`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import RunRequest
from .options import command


@command(RunRequest)
def run(request: RunRequest) -> int:
    """Attack models on a dataset, record every case, print and write the tables and a report."""
    if request.config is not None:
        from .commands.sweep import run_sweep

        return run_sweep(request, request.config)
    if request.dry_run:
        from .commands.dry_run import show_plan

        return show_plan(request)
    from .commands.run import run_benchmark

    return run_benchmark(request, beside=True)
