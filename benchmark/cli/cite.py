"""The ``cite`` command as typed; its work is done elsewhere."""

from __future__ import annotations

import typer

from ..specs.requests import CiteRequest
from .codes import DONE
from .options import command


@command(CiteRequest)
def cite(request: CiteRequest) -> int:
    """Print BibTeX of attacks, models and datasets: the ones named, or else all that the records used."""
    from .commands.cite import bibtex, used

    named = (request.models, request.attacks, request.datasets)
    typer.echo(bibtex(*(named if any(named) else used(request.out))), nl=False)
    return DONE
