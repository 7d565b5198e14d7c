"""The ``cite`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .codes import DONE
from .options import Out


def cite(
    model: Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="May repeat.")] = None,
    attack: Annotated[list[str] | None, typer.Option("--attack", metavar="NAME", help="May repeat.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", metavar="NAME", help="May repeat.")
    ] = None,
    out: Out = Path("results"),
) -> int:
    """Print BibTeX of attacks, models and datasets: the ones named, or else all that the records used."""
    from .commands.cite import bibtex, used

    named = (tuple(model or ()), tuple(attack or ()), tuple(dataset or ()))
    typer.echo(bibtex(*(named if any(named) else used(out))), nl=False)
    return DONE
