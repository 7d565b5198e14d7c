"""The ``suite`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import SuiteRequest
from .options import command

MEASURED = ("models", "dataset", "data_root", "protocol", "checkpoints", "roi_size", "device", "workers")


@command(SuiteRequest, keep=MEASURED, required=("models",))
def suite(request: SuiteRequest) -> int:
    """Measure what a model needs to be ranked: every row of the protocol's suite on its cases, and its checks.

    What is recorded in --known or --out already is not made again.
    """
    from .commands.suite import run_suite

    return run_suite(request)
