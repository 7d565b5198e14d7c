"""The ``figures`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.crossing import CROSSED
from ..specs.requests import FiguresRequest
from .options import command


@command(FiguresRequest, keep=CROSSED, split="validation", cases="first:1")
def figures(request: FiguresRequest) -> int:
    """Draw attacked cases in three planes, and budget curves and transfer heat maps of the records.

    Attacks run again with the seeds of the records, so a picture shows what was scored and says whether it is.
    Without models and attacks only the records are drawn; no data are needed for that. With --ranking the page gets
    its picture of the best and of the worst model.
    """
    from ..show.figures.canvas import require_matplotlib

    require_matplotlib()  # before torch is loaded

    from .commands.figures import draw_figures

    return draw_figures(request)
