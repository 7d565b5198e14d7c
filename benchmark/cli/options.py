"""Options of the commands, built from the fields of what is asked.

A field of a request in ``specs/requests.py`` says once what its option is called and what it means. A command names
the fields it takes and its own defaults; what was typed becomes the request it is called with.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from ..specs.options import Option
from .stopping import StoppedCommandError

Request = TypeVar("Request")


def command(
    kind: type[Request],
    *,
    keep: Sequence[str] | None = None,
    required: Sequence[str] = (),
    flags: Mapping[str, str] | None = None,
    **defaults: Any,
) -> Callable[[Callable[[Request], int]], Callable[..., int]]:
    """Decorator that gives a function of a request the options that its fields declare.

    Args:
        kind: the dataclass of the request. Fields that are requests themselves give their options too.
        keep: fields of inner requests that are options here; the others keep their defaults. None for all.
        required: fields without a default here.
        flags: other names of options, by field.
        **defaults: defaults of this command, by field.
    """
    found = declared(kind, keep)
    given = {**defaults, **dict.fromkeys(required, inspect.Parameter.empty)}

    def decorate(function: Callable[[Request], int]) -> Callable[..., int]:
        def run(**typed: Any) -> int:
            try:
                return function(build(kind, typed))
            except KeyboardInterrupt as stop:
                raise StoppedCommandError(stop) from None

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                _parameter(field, hint, (flags or {}).get(name), given.get(name, MISSING))
                for name, (field, hint) in found.items()
            ],
            return_annotation=int,
        )
        run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
        return run

    return decorate


def declared(kind: type, keep: Sequence[str] | None) -> dict[str, tuple[Field, Any]]:
    """Every field that is an option, by name, with its annotation; those of inner requests first."""
    hints = get_type_hints(kind, include_extras=True)
    inner: dict[str, tuple[Field, Any]] = {}
    own: dict[str, tuple[Field, Any]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            options = declared(hint, None)
            inner |= {name: option for name, option in options.items() if keep is None or name in keep}
        elif any(isinstance(extra, Option) for extra in get_args(hint)[1:]):
            own[field.name] = (field, hint)
    return {**inner, **own}


def flag_of(field: Field, option: Option) -> str:
    """What a field is called on the command line; both names of a switch that is on."""
    return option.flag or f"--{field.name.replace('_', '-')}"


def _parameter(field: Field, hint: Any, flag: str | None, default: Any) -> inspect.Parameter:
    plain, *extras = get_args(hint)
    option = next(extra for extra in extras if isinstance(extra, Option))
    shown = option.shown if default is MISSING else None  # of a command's own default, its value
    if default is MISSING:
        default = field.default if field.default is not MISSING else inspect.Parameter.empty
    settings = {"metavar": option.metavar, "envvar": option.env, "min": option.least, "show_default": shown}
    settings = {"help": option.help, **{key: value for key, value in settings.items() if value is not None}}
    name = flag or flag_of(field, option)
    names = (name, option.short) if option.short else (name,)
    parameter = typer.Argument(**settings) if option.argument else typer.Option(*names, **settings)
    default = None if default == () else default
    annotation = Annotated[_typed(plain, default), parameter]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _typed(plain: Any, default: Any) -> Any:
    """The type as the command line reads it: many values are a list, which may be left out."""
    if get_origin(plain) is tuple:
        values = list[get_args(plain)[0]]
        return values if default is inspect.Parameter.empty else values | None
    return plain


def build(kind: type[Request], typed: Mapping[str, Any]) -> Request:
    """The request that the typed values make; inner requests take theirs."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            values[field.name] = build(hint, typed)
        elif field.name in typed:
            value = typed[field.name]
            values[field.name] = tuple(value or ()) if _is_many(hint) else value
    return kind(**values)


def values_of(request: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a request and of those inside it, by name."""
    for field in fields(request):
        value = getattr(request, field.name)
        if is_dataclass(value):
            yield from values_of(value)
        else:
            yield field.name, value


def _is_many(hint: Any) -> bool:
    return get_origin(hint) is tuple or (
        get_origin(hint) in (Union, types.UnionType)
        and any(get_origin(part) is tuple for part in get_args(hint))
    )
