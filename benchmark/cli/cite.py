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
    study: Annotated[
        list[str] | None, typer.Option("--study", metavar="COMMAND", help="steal; may repeat.")
    ] = None,
    out: Out = Path("results"),
) -> int:
    """Print BibTeX of attacks, models, datasets and studies: the ones named, or else all that the results used."""
    from .commands.cite import bibtex, studied, used

    named = (tuple(model or ()), tuple(attack or ()), tuple(dataset or ()), tuple(study or ()))
    typer.echo(bibtex(*(named if any(named) else (*used(out), studied(out)))), nl=False)
    return DONE
