"""Models that are in no registry: a folder or file given by its path, and a factory given by its import."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from robustvox.datasets import Dataset
from robustvox.models import CheckpointError, SlidingWindow
from robustvox.models.bring import BroughtModel, open_model

from ..specs.protocols import Protocol
from ..specs.spec import Spec, UsageError, canonical, normalize

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


LIBRARY = re.compile(
    r"[\\/](site|dist)-packages[\\/]|^<|"
    + "|".join(
        f"^{re.escape(str(folder))}" for folder in (Path(os.__file__).parent, Path(__file__).parents[1])
    )
)
"""Files that are not the user's: of packages, of Python, of this command."""


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
    if normalize(text.partition(":")[0]) in map(normalize, names):
        return None
    path, tail = text, ""
    found = re.fullmatch(r"(.+?):([A-Za-z_]\w*=.*)", text)
    if found and not _exists(text):
        path, tail = found[1], found[2]
    if re.search(r"[/\\]", path) or path.startswith("~") or path.lower().endswith(SUFFIXES) or _exists(path):
        return Path(path).expanduser(), Spec.parse(f"path:{tail}" if tail else "path").parameters
    return None


def _exists(text: str) -> bool:
    try:
        return os.path.exists(text)
    except ValueError:
        return False


def load_path(
    path: Path,
    parameters: Mapping[str, Any],
    dataset: Dataset,
    protocol: Protocol,
    *,
    architecture: str | None = None,
    sw_batch_size: int = 4,
) -> BroughtModel:
    """The model a path holds, for the data and the windows of the protocol.

    Raises:
        UsageError: as :func:`~robustvox.models.bring.open_model`.
    """
    try:
        return open_model(
            path,
            in_channels=dataset.in_channels,
            num_classes=len(dataset.class_names),
            roi_size=dataset.roi_size,
            architecture=architecture,
            arguments=parameters,
            overlap=protocol.overlap,
            mode=protocol.mode,
            sw_batch_size=sw_batch_size,
        )
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def load_factory(
    name: str,
    factory: Callable[..., Any],
    parameters: Mapping[str, Any],
    dataset: Dataset,
    checkpoint: Path | None = None,
) -> BroughtModel:
    """The network a factory builds; what it raises becomes one line.

    Args:
        name: as written, ``package.module:factory``.
        factory: takes what it declares of ``in_channels``, ``num_classes``, ``roi_size`` and ``checkpoint``, and
            the parameters; returns a network, or a :class:`~robustvox.models.SlidingWindow` that is used as it is.
        parameters: written behind the name.
        dataset: tells the first three.
        checkpoint: of ``--checkpoint``.

    Raises:
        UsageError: anything the factory raises, no network, or one that cannot have the data's window or classes.
    """
    from torch import nn

    from robustvox.models.bring.foreign import Foreign, check_window
    from robustvox.models.checkpoint import state_sha256

    classes: dict[str, Any] = {
        "in_channels": dataset.in_channels,
        "num_classes": len(dataset.class_names),
    }
    offered = {**classes, "roi_size": tuple(dataset.roi_size)}
    if checkpoint is not None:
        offered["checkpoint"] = checkpoint
    try:
        model = factory(**_accepted(name, factory, offered), **parameters)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: {blame(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected {name} to return a torch.nn.Module, got {type(model).__name__}")
    model.eval()
    shown = canonical(name, {key: last_part(value) for key, value in parameters.items()})
    own = isinstance(model, SlidingWindow)
    network, roi_size = (model.network, model.roi_size) if own else (model, tuple(dataset.roi_size))
    try:
        check_window(network, name, **classes, roi_size=roi_size)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sha256 = state_sha256(network)
    if own:
        note = f"its own window {roi_size}, overlap {model.overlap}, {model.mode} weights, not those of the protocol"
        return BroughtModel(name=shown, sha256=sha256, roi_size=roi_size, predictor=model, notes=(note,))
    return BroughtModel(name=shown, sha256=sha256, roi_size=roi_size, network=Foreign(network, name))


def _accepted(name: str, factory: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """What a factory declares of what is offered, so that a plain function without arguments works too."""
    if not callable(factory):
        raise UsageError(
            f"expected {name} to be a function that returns a network, got {type(factory).__name__}"
        )
    declared = inspect.signature(factory).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in declared.values())
    if "checkpoint" in offered and not takes_all and "checkpoint" not in declared:
        raise UsageError(
            f"expected {name} to take the --checkpoint, found no parameter `checkpoint`; add it to the factory or drop "
            "--checkpoint"
        )
    return {key: value for key, value in offered.items() if takes_all or key in declared}


def blame(error: BaseException) -> str:
    """An exception in one line, with the last place of the user's own code on the way to it."""
    from robustvox.models.bring.foreign import describe

    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not LIBRARY.search(frame.filename)]
    where = f" (at {Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return describe(error) + where


def last_part(value: Any) -> Any:
    """A path without its folders, anything else as it is: records are published, home folders are not.

    Example:
        >>> last_part("/home/me/runs/best.pt"), last_part("8/255"), last_part(3)
        ('best.pt', '8/255', 3)
    """
    if not isinstance(value, str):
        return value
    windows = PureWindowsPath(value)
    if value.startswith(("/", "~", "./", "../")) or windows.drive:
        return windows.name
    return value
