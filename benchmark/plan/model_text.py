"""What was typed as a model: a name of the registry, a path, or a factory. It is decided here, once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from robustvox.models import CATALOG
from robustvox.models.prompted import TARGETS

from ..specs.defences import split_defence
from ..specs.spec import Spec, match, normalize
from .computing import split_precision
from .registries import find_plugin, import_name

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Registered:
    """An architecture of the registry, with its parameters, and the defence it was trained with."""

    spec: Spec
    identity: str
    precision: str = ""
    defence: str = ""
    takes_checkpoint: ClassVar[bool] = True


@dataclass(frozen=True)
class ByPath:
    """A folder or file that is a model with its weights, and parameters of its format."""

    path: Path
    parameters: Mapping[str, Any]
    identity: str
    precision: str = ""
    takes_checkpoint: ClassVar[bool] = False


@dataclass(frozen=True)
class ByFactory:
    """A callable that builds a network: imported by its path, or a plug-in by its name."""

    spec: Spec
    factory: Callable[..., Any]
    identity: str
    precision: str = ""
    takes_checkpoint: ClassVar[bool] = True


ModelText = Registered | ByPath | ByFactory
"""What a text after ``--model`` is. Equal ``identity`` means the same model, however it was written; ``precision`` is that
of its network where the text says one."""


def parse_model(text: str) -> ModelText:
    """Decide what a typed text is; for what was typed only, because a factory is imported.

    Raises:
        UsageError: unknown name, or a factory that cannot be imported.

    Example:
        >>> parse_model("Swin-UNETR:size=small").identity, parse_model("runs/best.pt").takes_checkpoint
        ('swinunetr:size=small', False)
    """
    written, precision = split_precision(text, "")
    target = find_target(written)
    if target is not None:
        return Registered(target, str(target), precision)
    located = locate(written, (*CATALOG, *TARGETS))
    if located is not None:
        return ByPath(*located, identity=text, precision=precision)
    plain, defence = split_defence(written)
    if defence and is_architecture(Spec.parse(plain).name):
        spec = Spec.parse(plain)
        known = Spec(match(spec.name, CATALOG, "model"), spec.parameters)
        return Registered(known, normalize(text), precision, defence)
    spec = Spec.parse(written)
    if ":" in spec.name:
        return ByFactory(spec, import_name(spec.name, "model"), text, precision)
    if not is_architecture(spec.name):
        plugin = find_plugin(spec.name, "robustvox.models")
        if plugin is not None:
            return ByFactory(spec, plugin, normalize(text), precision)
    known = Spec(match(spec.name, CATALOG, "model"), spec.parameters)
    return Registered(known, normalize(text), precision)


def find_target(text: str) -> Spec | None:
    """The spec of a published target, None where the text names something else.

    Example:
        >>> find_target("Vista-3D:prompts=click").name, find_target("unet")
        ('vista3d', None)
    """
    known = {normalize(name): name for name in TARGETS}
    head = normalize(text.partition(":")[0])
    return Spec(known[head], Spec.parse(text).parameters) if head in known else None


def is_architecture(name: str) -> bool:
    """Whether the registry has a model of this name, with a defence or without.

    Example:
        >>> is_architecture("Swin-UNETR"), is_architecture("unet@pgd_at"), is_architecture("unet@something")
        (True, True, False)
    """
    return normalize(split_defence(name)[0]) in map(normalize, CATALOG)


def locate(text: str, names: Iterable[str] = ()) -> tuple[Path, Mapping[str, Any]] | None:
    """The path with its parameters that ``PATH[:key=value,...]`` is, or None where it is a name.

    A name of the registry is never a path; write ``./unet`` for a folder of that name. Everything else that
    exists, has a slash or ends like a checkpoint is one, so that a wrong path is told as such.

    Args:
        text: as written after ``--model``.
        names: of the registry.

    Example:
        >>> path, parameters = locate("runs/spleen:fold=1")
        >>> path.as_posix(), parameters
        ('runs/spleen', {'fold': 1})
        >>> locate("my_package.models:factory:width=8")
    """
    if normalize(split_defence(text)[0].partition(":")[0]) in map(normalize, names):
        return None
    path, tail = _split_path(text)
    if re.search(r"[/\\]", path) or path.startswith("~") or path.lower().endswith(SUFFIXES) or _exists(path):
        return Path(path).expanduser(), Spec.parse(f"path:{tail}" if tail else "path").parameters
    return None


def absolute_model(text: str) -> str:
    """The same model as typed in any other folder: a path from the root of the file system, a name as it is.

    Example:
        >>> absolute_model("unet:size=small"), absolute_model("runs/best.pt").endswith("/runs/best.pt")
        ('unet:size=small', True)
    """
    if locate(split_precision(text, "")[0], (*CATALOG, *TARGETS)) is None:
        return text
    path, tail = _split_path(text)
    return str(Path(path).expanduser().absolute()) + (f":{tail}" if tail else "")


def _split_path(text: str) -> tuple[str, str]:
    """A path, and the parameters behind it."""
    found = re.fullmatch(r"(.+?):([A-Za-z_]\w*=.*)", text)
    return (found[1], found[2]) if found and not _exists(text) else (text, "")


def _exists(text: str) -> bool:
    try:
        return os.path.exists(text)
    except ValueError:
        return False
