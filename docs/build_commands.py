"""Write docs/commands.md, every command and option, from the definitions of the command line.

python docs/build_commands.py
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from robustvox.benchmark.cli import app

PAGE = Path(__file__).resolve().parent / "commands.md"
COMMAND = "python docs/build_commands.py"


def page() -> str:
    """Markdown of the whole reference."""
    commands: dict[str, Any] = get_command(app).commands
    overview = "\n".join(f"| [`{name}`](#{name}) | {_first(command)} |" for name, command in commands.items())
    parts = [
        f"<!-- Written by `{COMMAND}` from benchmark/cli: edit that. -->",
        "# Commands",
        "`robustvox list` anywhere and `python -m benchmark list` in the clone are the same program. Without a command, `run` is meant.",
        f"| command | what it does |\n| --- | --- |\n{overview}",
        "Exit codes: 0 done; 1 some cases failed, which are rows too; 2 the command cannot be carried out as typed; 3 no worker, "
        "scheduler or space is left and the same command continues; 130 stopped by Ctrl-C; 141 nobody reads its output any more.",
        *(_command(name, command) for name, command in commands.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> str:
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    parts = [f"## {name}", _escape(inspect.cleandoc(command.help or ""))]
    words = [f"python -m benchmark {name}", *(_placeholder(one) for one in arguments)]
    parts.append(f"```text\n{' '.join([*words, *(['[OPTIONS]'] if options else [])])}\n```")
    if options:
        rows = "\n".join(f"| {_names(one)} | {_meaning(one)} |" for one in options)
        parts.append(f"| option | meaning |\n| --- | --- |\n{rows}")
    return "\n\n".join(parts)


def _first(command: Any) -> str:
    text = " ".join(inspect.cleandoc(command.help or "").split())
    return _escape(re.split(r"(?<=[.?])\s", text)[0])


def _placeholder(argument: Any) -> str:
    shown = (argument.metavar or argument.name or "").upper()
    shown = shown if not argument.multiple and argument.nargs == 1 else f"{shown}..."
    return shown if argument.required else f"[{shown}]"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    shown = option.metavar and option.metavar.replace("|", "&#124;")
    return names + (f" <code>{shown}</code>" if shown else "")


def _meaning(option: Any) -> str:
    told = [_escape(" ".join((option.help or "").split()))]
    if option.required:
        told.append("Required.")
    elif option.default is True:
        told.append(f"Default: `{option.opts[0]}`.")
    elif not callable(option.default) and option.default not in (None, False, (), [], ""):
        default = option.default
        shown = ", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        told.append(f"Default: `{shown}`.")
    if option.multiple and "repeat" not in told[0]:
        told.append("May be repeated.")
    return " ".join(text if text[-1:] in ".?" else f"{text}." for text in told if text)


def _escape(text: str) -> str:
    return re.sub(r"([*_|<])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")
