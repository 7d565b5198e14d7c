"""The ``data`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import DataRequest
from .options import command


@command(DataRequest)
def data(request: DataRequest) -> int:
    """Verify a copy of a dataset: cases found and missing, shapes, spacing, labels, hashes."""
    from .commands.data import verify_data

    return verify_data(
        request.dataset,
        request.data_root,
        splits=request.splits,
        download=request.download,
        out=request.out,
        organs=request.organs,
    )
