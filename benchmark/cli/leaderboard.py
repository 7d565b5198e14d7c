"""The ``leaderboard`` command as typed; its work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..specs.spec import UsageError
from .codes import DONE, SOME_FAILED
from .options import Out


def leaderboard(
    check: Annotated[bool, typer.Option("--check", help="Only compare; fail when a table differs.")] = False,
    out: Out = Path("results"),
) -> int:
    """Rebuild every table from the committed records."""
    from ..show.files import check as differences
    from ..show.files import render, write

    if not out.is_dir():
        raise UsageError(
            f"expected a results folder at {out}, found none; run a benchmark first or correct --out"
        )
    if not check:
        write(out, readme=True)
        for path in render(out):
            typer.echo(path)
        return DONE
    found = differences(out)
    for text in found:
        typer.echo(text)
    typer.echo(
        f"{out}: {len(found)} files differ from the records" if found else f"{out}: tables match the records"
    )
    return SOME_FAILED if found else DONE
