"""The command line: ``python -m benchmark`` and ``robustvox``. One file per command; heavy imports happen inside."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ..specs.spec import UsageError
from .check import check
from .cite import cite
from .codes import DONE, INTERRUPTED, USAGE
from .compare import compare
from .data import data
from .figures import figures
from .frequency import frequency
from .leaderboard import leaderboard
from .list_registries import list_registries
from .mark import mark, marking, unlock
from .run import run
from .steal import steal
from .train import train
from .verify import verify

# Typer brings its own copy of click from 0.20 on; this is ClickException of whichever it uses.
ClickException: Any = typer.BadParameter.__mro__[2]


app = typer.Typer(
    name="robustvox",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial robustness benchmark for 3D medical segmentation. Without a command, `run` is meant.",
)


# In the order of `--help`.
for command in (
    run, check, compare, frequency, steal, figures, train, leaderboard, verify, cite, data, mark, unlock, marking,
):  # fmt: skip
    app.command()(command)
app.command("list")(list_registries)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code and never shows a traceback for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = [
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    ]
    if not arguments:
        arguments = ["--help"]
    elif arguments[0].startswith("-") and arguments[0] != "--help":
        arguments.insert(0, "run")
    elif arguments[0] not in commands and arguments[0] != "--help":
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        return _usage(
            f"unknown command {arguments[0]!r}; " + (f"did you mean {near[0]}?" if near else "see --help")
        )
    try:
        with _warnings_told_once():
            code = app(args=arguments, prog_name="python -m benchmark", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except ClickException as error:
        return _usage(error.format_message())
    except UsageError as error:
        return _usage(str(error))
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; finished cases are recorded, the same command continues", err=True)
        return INTERRUPTED


@contextmanager
def _warnings_told_once() -> Iterator[None]:
    """One line per warning about what was asked for, however often an attack is built; no path and no source line."""
    told: set[str] = set()

    def tell(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if category is not UserWarning:
            usual(message, category, *rest)
        elif str(message) not in told:
            told.add(str(message))
            typer.echo("warning: " + " ".join(str(message).split()), err=True)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = tell
        # These are messages of the command, not of Python: PYTHONWARNINGS=ignore does not take them away.
        warnings.filterwarnings("always", category=UserWarning, module=r"robustvox\.")
        yield


def _usage(message: str) -> int:
    typer.echo("error: " + " ".join(message.split()), err=True)
    return USAGE


def console_script() -> None:
    """What the ``robustvox`` script calls."""
    raise SystemExit(main())
