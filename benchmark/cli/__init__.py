"""The command line: ``python -m benchmark`` and ``robustvox``. One file per command; heavy imports happen inside."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer

from robustvox.datasets import DatasetError
from robustvox.models import CheckpointError, keep_freed_memory

from ..records.unit import RecordsError
from ..specs.names import printable
from ..specs.program import SCRIPT, program
from ..specs.spec import UnfinishedError, UsageError
from .check import check
from .cite import cite
from .codes import DONE, INTERRUPTED, MISTAKE, PIPE, UNFINISHED, USAGE
from .compare import compare
from .data import data
from .figures import figures
from .frequency import frequency
from .leaderboard import leaderboard
from .list_registries import list_registries
from .mark import mark, marking, unlock
from .migrate import migrate
from .mistakes import keep_mistake
from .run import run
from .steal import steal
from .stopping import Stopped, StoppedCommandError, how_to_go_on, stopped_by_terminate
from .submit import submit
from .suite import suite
from .train import train
from .verify import verify
from .view import view

# Typer brings its own copy of click from 0.20 on; this is ClickException of whichever it uses.
ClickException: Any = typer.BadParameter.__mro__[2]


LONGEST = 2000
"""Characters of a line about a mistake: what a file holds may be quoted in it."""

REFUSALS = (UsageError, RecordsError, DatasetError, CheckpointError)
"""What says by itself what was expected, found and to be done: one line, exit code 2."""

HELP, VERSION = ("-h", "--help"), "--version"
"""What the program and every command answer."""

COMPLETION = ("--install-completion", "--show-completion")
"""What the installed script answers, which shells complete."""


app = typer.Typer(
    name="robustvox",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},  # commands take theirs from here
    help="Adversarial robustness benchmark for 3D medical segmentation. Without a command, `run` is meant. "
    "--version says which robustvox this is.",
)


# In the order of `--help`.
for command in (
    run, suite, check, compare, frequency, steal, figures, view, train, leaderboard, submit, verify, cite, data, mark, unlock, marking, migrate,
):  # fmt: skip
    app.command()(command)
app.command("list")(list_registries)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code and never shows a traceback for bad input."""
    keep_freed_memory()
    typed = list(sys.argv[1:] if argv is None else argv)
    return reported(lambda: _called(typed), typed)


def _called(typed: list[str]) -> Any:
    """What the program does with what was typed."""
    arguments = list(typed)
    if VERSION in arguments[:2]:  # of the program, or after the name of a command
        from ..records.provenance import version

        typer.echo(f"robustvox {version()}")
        return DONE
    commands = [
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    ]
    if not arguments:
        arguments = ["--help"]
    elif arguments[0] in (*HELP, *COMPLETION):
        pass
    elif arguments[0].startswith("-"):
        arguments.insert(0, "run")
    elif arguments[0] not in commands:
        near = difflib.get_close_matches(arguments[0], commands, n=1)
        return _usage(
            f"unknown command {arguments[0]!r}; " + (f"did you mean {near[0]}?" if near else "see --help")
        )
    name = SCRIPT if arguments[0] in COMPLETION else program()
    return app(args=arguments, prog_name=name, standalone_mode=False)


def reported(call: Callable[[], Any], typed: Sequence[str] = ()) -> int:
    """The exit code of what a command does; what it refuses, and an interruption, become one line.

    Args:
        call: the command.
        typed: its arguments, for who stops it and wants to go on.
    """
    try:
        with _warnings_told_once(), stopped_by_terminate():
            code = call()
        if code == INTERRUPTED:  # what newer Typer makes of Ctrl-C
            raise Stopped
        return code if isinstance(code, int) else DONE
    except ClickException as error:
        return _usage(error.format_message())
    except REFUSALS as error:
        return _usage(str(error))
    except UnfinishedError as error:
        _usage(str(error))
        return UNFINISHED
    except (KeyboardInterrupt, StoppedCommandError, typer.Abort) as stop:
        typer.echo(printable(how_to_go_on(str(stop), typed)), err=True)
        return INTERRUPTED
    except OSError as error:
        return _unwritten(error)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # what Typer makes of it
            return _unwritten(error.__context__)
        raise
    except Exception as error:  # noqa: BLE001  # a mistake of ours, which must be seen and need not be read on a screen
        _usage(keep_mistake(error))
        return MISTAKE


def _unwritten(error: OSError) -> int:
    """Of a file or an output that takes nothing more; any other error of the system is a mistake of ours."""
    if error.errno == errno.EPIPE:  # who read standard output has gone, as `| head` does, and cannot be told
        with suppress(OSError, ValueError):  # or Python complains when it flushes what nobody takes
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        _usage(keep_mistake(error))
        return MISTAKE
    where = error.filename or "the output"
    _usage(
        f"expected to write to {where}, found: {error.strerror}; what is finished is kept: make room, then the same command "
        "continues"
    )
    return UNFINISHED


@contextmanager
def _warnings_told_once() -> Iterator[None]:
    """One line per warning about what was asked for, however often an attack is built; no path and no source line."""
    told: set[str] = set()

    def tell(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if category is not UserWarning:
            usual(message, category, *rest)
        elif str(message) not in told:
            told.add(str(message))
            typer.echo("warning: " + printable(" ".join(str(message).split())), err=True)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = tell
        # These are messages of the command, not of Python: PYTHONWARNINGS=ignore does not take them away.
        warnings.filterwarnings("always", category=UserWarning, module=r"robustvox\.")
        yield


def _usage(message: str) -> int:
    line = printable(" ".join(message.split()))
    typer.echo("error: " + (line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."), err=True)
    return USAGE
