"""The ``cite`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.requests import CiteRequest
from .codes import DONE
from .commands.console import say
from .options import command


@command(CiteRequest)
def cite(request: CiteRequest) -> int:
    """Print BibTeX of attacks, models, datasets and studies: the ones named, or else all that the results used."""
    from .commands.cite import bibtex, studied, used

    named = (request.models, request.attacks, request.datasets, request.studies)
    found = named if any(named) else (*used(request.out), studied(request.out))
    say(bibtex(*found).removesuffix("\n"))
    return DONE
