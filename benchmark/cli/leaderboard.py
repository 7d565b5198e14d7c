"""The ``leaderboard`` command as typed; its work is done in ``show``."""

from __future__ import annotations

from ..specs.requests import LeaderboardRequest
from ..specs.spec import UsageError
from .codes import DONE, SOME_FAILED
from .commands.console import say
from .options import command


@command(LeaderboardRequest)
def leaderboard(request: LeaderboardRequest) -> int:
    """Rebuild every table from the committed records."""
    from ..show.files import check, render, write

    out = request.out
    if not out.is_dir():
        raise UsageError(
            f"expected a results folder at {out}, found none; run a benchmark first or correct --out"
        )
    if not request.check:
        write(out, readme=True)
        for path in render(out):
            say(path)
        return DONE
    found = check(out)
    for text in found:
        say(text)
    say(f"{out}: {len(found)} files differ from the records" if found else f"{out}: tables match the records")
    return SOME_FAILED if found else DONE
