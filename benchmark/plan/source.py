"""The source of what somebody brought: part of its identity, so that no number of edited code is taken for a new one's.

It is the module that holds the class or function, and every module that it imports from the same project: files that
belong neither to Python, nor to an installed package, nor to robustvox. What a module imports by a computed name, and
files that it reads, are not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from robustvox.attacks import Attack
from robustvox.datasets import Dataset, Volume

from ..records.unit import data_fingerprint
from ..specs.matched import SOURCE
from ..specs.spec import UsageError
from .bring import LIBRARY

_OURS = tuple(
    str(Path(__file__).resolve().parents[2] / room) for room in ("attacks", "models", "datasets", "benchmark")
)


def source_of(what: Any) -> str:
    """``sha-`` and twelve digits for the source of a class or function; empty for what comes with robustvox.

    Example:
        >>> from robustvox.attacks import PGD
        >>> source_of(PGD)
        ''
    """
    name = getattr(what, "__module__", None) or type(what).__module__
    if name.partition(".")[0] == "robustvox":
        return ""
    digest = hashlib.sha256()
    files = _files(name)
    for module in sorted(files):
        digest.update(f"{module}\n".encode())
        # Line ends are a matter of the checkout.
        digest.update(files[module].read_bytes().replace(b"\r\n", b"\n"))
    if not files:
        digest.update(_code(what))
    return f"sha-{digest.hexdigest()[:12]}"


def with_source(sha256: str, what: Any) -> str:
    """A sha256 that another source changes; itself for what comes with robustvox."""
    source = source_of(what)
    return hashlib.sha256(f"{sha256} {source}".encode()).hexdigest() if source else sha256


def case_fingerprint(dataset: Dataset, volume: Volume) -> str:
    """What tells a case's data from others: its content, and the source of a dataset class of somebody's own."""
    return with_source(data_fingerprint(volume), type(dataset))


def require_fields(name: str, kind: type[Attack]) -> None:
    """Refuse an attack with parameters that are no fields of a dataclass: they would stand in no spec.

    Raises:
        UsageError: a constructor of its own, or an annotated name that became no field.
    """
    remedy = "put @dataclass(frozen=True, kw_only=True) on the class and give each parameter as `name: type = default`"
    for owner in kind.__mro__[: kind.__mro__.index(Attack)]:
        own = vars(owner)
        made = own.get("__dataclass_params__")
        if isinstance(own.get("__init__"), FunctionType) and not (made is not None and made.init):
            raise UsageError(
                f"expected the parameters of {name} as fields of a dataclass, found a constructor in {owner.__name__}; {remedy}"
            )
        bare = [key for key in own.get("__annotations__", {}) if key not in kind.__dataclass_fields__]
        if bare and made is None:
            raise UsageError(
                f"expected the parameters of {name} as fields of a dataclass, found {', '.join(bare)} in {owner.__name__}, "
                f"which is none; {remedy}"
            )


def require_source(name: str, recorded: str, kind: type[Attack]) -> None:
    """Refuse an attack whose code is not the one that a spec names.

    Raises:
        UsageError: it is another one.
    """
    found = source_of(kind)
    if recorded != found:
        raise UsageError(
            f"expected {name} with the source {recorded}, found {found or 'that of robustvox'}: its code is another one "
            f"than when this was recorded; drop {SOURCE}= to run it as it is"
        )


@cache
def _files(name: str) -> dict[str, Path]:
    """Module to file, of a module and of all it imports from its project."""
    found: dict[str, Path] = {}
    first = _locate(name)
    if first is not None and not _own(first):
        return {
            name: first
        }  # of an installed package, whose version is in the provenance of whoever installs it
    waiting = [name]
    while waiting:
        module = waiting.pop()
        path = None if module in found else _locate(module)
        if path is None or not _own(path):
            continue
        found[module] = path
        if path.suffix == ".py":
            waiting += _imported(module, path)
    return found


def _locate(module: str) -> Path | None:
    """The file of a module; a parent package is looked at and not imported for it."""
    loaded = sys.modules.get(module)
    if isinstance(loaded, ModuleType):
        file = getattr(loaded, "__file__", None)
        return Path(file).resolve() if file and Path(file).is_file() else None
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin).resolve() if spec.origin and Path(spec.origin).is_file() else None
    for folder in spec.submodule_search_locations or ():
        below = Path(folder).joinpath(*rest)
        for path in (below.with_suffix(".py"), below / "__init__.py"):
            if path.is_file():
                return path.resolve()
    return None


def _own(path: Path) -> bool:
    return not LIBRARY.search(str(path)) and not str(path).startswith(_OURS)


def _imported(module: str, path: Path) -> Iterator[str]:
    """Every module that a file may import, wherever the import stands."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            yield from _with_parents(base)
            for alias in node.names:  # a module of the package, or a name in it, which is no file
                yield f"{base}.{alias.name}"


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def _code(what: Any) -> bytes:
    """Of what has no file, as in a notebook: what its functions do."""
    owners = what.__mro__ if isinstance(what, type) else (what,)
    functions = [f for o in owners for f in ([o] if isinstance(o, FunctionType) else vars(o).values())]
    codes = [f.__code__ for f in functions if isinstance(f, FunctionType) and f.__module__ == what.__module__]
    return repr(
        [
            (c.co_name, c.co_code, c.co_names, [k for k in c.co_consts if not hasattr(k, "co_code")])
            for c in codes
        ]
    ).encode()
