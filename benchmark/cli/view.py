"""The ``view`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.crossing import CROSSED
from ..specs.requests import ViewRequest
from .options import command

_KEPT = (*(name for name in CROSSED if name != "cases"), "targets", "adversarial")


@command(ViewRequest, keep=_KEPT, split="validation")
def view(request: ViewRequest) -> int:
    """Write an HTML file per attacked case to scroll through: images, predictions, difference, 3D.

    Attacks run again with the seeds of the records, and the page says whether it shows what was scored. With
    --adversarial and --target saved volumes are shown instead. A file asks the network for nothing.
    """
    from .commands.view import write_views

    return write_views(request)
