"""The ``leaderboard`` command as typed; its work is done in ``show``."""

from __future__ import annotations

from ..specs.requests import LeaderboardRequest
from ..specs.spec import UsageError
from .codes import DONE, SOME_FAILED
from .commands.console import say
from .options import command


@command(LeaderboardRequest)
def leaderboard(request: LeaderboardRequest) -> int:
    """Rebuild every table from the published records; with --publish, add those of a run first."""
    from ..show.files import check, render, write

    out = request.out
    if request.publish is not None:
        if request.check:
            raise UsageError("expected --check or --publish RUN, got both; publish first")
        from .commands.publish import publish

        return publish(request.publish, out)
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
