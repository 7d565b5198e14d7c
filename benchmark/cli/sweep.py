"""A file of options: what the command line of ``run`` takes, as YAML, with lists that are crossed.

model: [unet, segresnet]
attack: ["pgd:steps=20", fgsm]
dataset: [phantom, hippocampus]
protocol: [robustvox-1, bmvc2024]
cases: 4
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from ..specs.options import Option
from ..specs.requests import RunRequest
from ..specs.spec import UsageError
from .options import build, declared, flag_of, values_of

NOT_IN_A_FILE = ("config", "dry_run")

MOST_BYTES, MOST_RUNS = 200_000, 1000
"""Of a file and of what it crosses: more is a mistake, and would take minutes to be told."""

_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""What YAML takes for a switch."""


@dataclass(frozen=True)
class Entry:
    """One value of a file and where it stands: ``place`` is ``FILE:LINE``."""

    field: str
    text: str
    place: str


@dataclass(frozen=True)
class Sweep:
    """The runs that a file asks for, and its values, line by line, for who can tell whether they exist."""

    runs: tuple[RunRequest, ...]
    entries: tuple[Entry, ...]


def read_sweep(path: Path, typed: RunRequest) -> Sweep:
    """Every run of a file. What was typed besides, and is not the default, stands in place of the file's.

    Raises:
        UsageError: no such file, no YAML, an unknown option, or a value of another type, with the line.
    """
    options = {
        name: option for name, option in declared(RunRequest, None).items() if name not in NOT_IN_A_FILE
    }
    given = {name: value for name, value in values_of(typed) if _is_typed(name, value, options)}
    fixed, crossed, entries = {}, {}, []
    for name, found in _read(path, _named(options)):
        if name in given:
            continue
        entries += found
        values = [_value(entry, options[name][1]) for entry in found]
        if _is_many(options[name][1]):
            fixed[name] = tuple(values)
        elif len(values) == 1:
            fixed[name] = values[0]
        else:
            crossed[name] = _once(found, values)
    many = math.prod(map(len, crossed.values()))
    if many > MOST_RUNS:
        raise UsageError(
            f"{path}: expected at most {MOST_RUNS} runs, got {many}, the lists of {', '.join(crossed)} crossed; split the file"
        )
    values = {**_defaults(options), **fixed}
    try:
        runs = [
            build(RunRequest, {**values, **dict(zip(crossed, chosen, strict=True)), **given})
            for chosen in itertools.product(*crossed.values())
        ]
    except UsageError as error:  # what cannot be together
        raise UsageError(f"{path}: {error}") from error
    return Sweep(tuple(runs), tuple(entries))


def _once(found: Sequence[Entry], values: Sequence[Any]) -> Sequence[Any]:
    """Values that are crossed: the same twice would be the same run twice."""
    first: dict[Any, Entry] = {}
    for entry, value in zip(found, values, strict=True):
        if first.setdefault(value, entry) is not entry:
            raise UsageError(
                f"{entry.place}: expected every value once, got {entry.text!r} again; leave it out"
            )
    return values


def _defaults(options: Mapping[str, tuple[Field, Any]]) -> dict[str, Any]:
    return {name: field.default for name, (field, _) in options.items() if field.default is not MISSING}


def _is_typed(name: str, value: Any, options: Mapping[str, tuple[Field, Any]]) -> bool:
    if name not in options:
        return False
    field, hint = options[name]
    env = _option(hint).env
    if env is not None and value is not None and os.environ.get(env) == str(value):
        return False  # of every command in this shell, and not of this one
    return value != field.default


def _named(options: Mapping[str, tuple[Field, Any]]) -> dict[str, str]:
    """What each option may be called in a file: as on the command line, or as the field."""
    names = {name: name for name in options}
    for name, (field, hint) in options.items():
        names[flag_of(field, _option(hint)).split("/")[0].removeprefix("--")] = name
    return names


def _option(hint: Any) -> Option:
    return next(extra for extra in get_args(hint)[1:] if isinstance(extra, Option))


def _read(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, list[Entry]]]:
    """Every option of a file with its values; an empty list says nothing."""
    import yaml

    root = _composed(path)
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: expected options as `model: unet`, a line each, found none")
    seen: dict[str, int] = {}
    for key, value in root.value:
        line = key.start_mark.line + 1
        called = key.value
        if not isinstance(called, str):
            raise UsageError(f"{path}:{line}: expected the name of an option, found a list; see `run --help`")
        name = names.get(called)
        if name is None:
            near = difflib.get_close_matches(called, names, n=1)
            hint = f"did you mean {near[0]}?" if near else "it takes what `run --help` shows"
            raise UsageError(f"{path}:{line}: no option is called {called!r}; {hint}")
        if name in seen:
            raise UsageError(f"{path}:{line}: expected {called} once, it stands in line {seen[name]} too")
        seen[name] = line
        items = value.value if value.tag == "tag:yaml.org,2002:seq" else [value]
        if not items:
            raise UsageError(
                f"{path}:{line}: expected a value of {called}, found an empty list; leave it out"
            )
        yield name, [_entry(name, item, path) for item in items]


def _composed(path: Path) -> Any:
    """The nodes of a YAML file, which nothing was made of: no object, no alias within an alias.

    Raises:
        UsageError: no such file, too large a one, no UTF-8, or no YAML.
    """
    import yaml

    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"expected --config as a YAML file at {path}, found: {error.strerror}; give another"
        ) from error
    if len(raw) > MOST_BYTES:
        raise UsageError(f"{path}: expected a file of options, at most {MOST_BYTES} bytes, found more")
    try:
        return yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line}: expected UTF-8, found other bytes; save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        found = " ".join(filter(None, (error.context, error.problem)))
        raise UsageError(f"{path}:{line}: expected YAML, found: {found}; correct this line") from error
    except (yaml.YAMLError, RecursionError) as error:
        found = "lists within lists without end" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path}: expected YAML, found: {found}") from error


def _entry(name: str, node: Any, path: Path) -> Entry:
    place = f"{path}:{node.start_mark.line + 1}"
    own = not node.tag.startswith("tag:yaml.org,2002:")  # a type that only its writer knows
    if not isinstance(node.value, str) or own or node.tag == "tag:yaml.org,2002:null":
        raise UsageError(
            f"{place}: expected one value or a list of values, found something else; see `run --help`"
        )
    return Entry(name, node.value, place)


def _value(entry: Entry, hint: Any) -> Any:
    """A value as the command line would read it."""
    plain = _plain(hint)
    try:
        if plain is bool:
            return _SWITCH[entry.text.lower()]
        # A shell would have put in the home of `~`.
        value: Any = Path(entry.text).expanduser() if plain is Path else plain(entry.text)
    except (KeyError, ValueError, RuntimeError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(plain, plain.__name__)
        raise UsageError(f"{entry.place}: expected {kind}, got {entry.text!r}") from None
    least = _option(hint).least
    if least is not None and not value >= least:  # nor what is no number
        raise UsageError(f"{entry.place}: expected at least {least:g}, got {entry.text}")
    return value


def _plain(hint: Any) -> type:
    """The type of one value."""
    kind = get_args(hint)[0]
    if get_origin(kind) is tuple:
        return get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def _is_many(hint: Any) -> bool:
    return get_origin(get_args(hint)[0]) is tuple
