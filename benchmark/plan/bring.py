"""Models that are in no registry: a folder or file given by its path, and a factory given by its import."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import nn

from robustvox.datasets import Dataset, DatasetError, channel_names_of
from robustvox.models import CheckpointError, SlidingWindow
from robustvox.models.bring import BroughtModel, Folds, open_model, recognize
from robustvox.models.bring.foreign import Foreign, can_be_asked, check_window
from robustvox.models.case import CasePredictor
from robustvox.models.checkpoint import state_sha256

from ..specs.protocols import Protocol
from ..specs.spec import UsageError, canonical
from .folds import training_folds
from .windows import WindowChoice, choose_window, read_window, with_window

UNASKED = 32
"""A network that cannot be asked which windows it takes gets multiples of this."""

LIBRARY = re.compile(
    r"[\\/](site|dist)-packages[\\/]|^<|"
    + "|".join(
        f"^{re.escape(str(folder))}" for folder in (Path(os.__file__).parent, Path(__file__).parents[1])
    )
)
"""Files that are not the user's: of packages, of Python, of this command."""


def load_path(
    path: Path,
    parameters: Mapping[str, Any],
    dataset: Dataset,
    protocol: Protocol,
    *,
    choice: WindowChoice,
    architecture: str | None = None,
    sw_batch_size: int | str = "auto",
) -> BroughtModel:
    """The model a path holds, for the data and the windows of the protocol.

    Args:
        path: folder or file.
        parameters: written behind it.
        dataset: tells channels and classes, and which cases there are.
        protocol: of overlap and weights.
        choice: the window for a format that names none.
        architecture: of a published checkpoint.
        sw_batch_size: windows per forward.

    Raises:
        UsageError: as :func:`~robustvox.models.bring.open_model`.
    """

    def read(roi_size: tuple[int, ...]) -> BroughtModel:
        return open_model(
            path,
            in_channels=dataset.in_channels,
            num_classes=len(dataset.class_names),
            roi_size=roi_size,
            architecture=architecture,
            arguments=parameters,
            overlap=protocol.overlap,
            mode=protocol.mode,
            sw_batch_size=sw_batch_size,
            folds=folds,
            class_names=dataset.class_names,
            channel_names=channel_names_of(dataset),
        )

    try:
        folds = _folds(path, dataset)
        return with_window(choice, read, CheckpointError)[0]
    except (CheckpointError, DatasetError) as error:
        raise UsageError(str(error)) from error


def _folds(path: Path, dataset: Dataset) -> Folds | None:
    """Which cases the folds of an nnU-Net folder were trained on; None of any other model."""
    if recognize(path) != "nnunet":
        return None
    cases = tuple(dict.fromkeys(case for cases in dataset.splits.values() for case in cases))
    return training_folds(path, cases, getattr(dataset, "root", None))


def take_data_parameters(
    name: str, parameters: Mapping[str, Any], dataset: Dataset
) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """Parameters without those that are the data's, and the window among these where one is asked for.

    Raises:
        UsageError: other channels or classes than the data have, or no window.
    """
    decided = {
        "in_channels": (dataset.in_channels, "image channel(s)"),
        "num_classes": (len(dataset.class_names), "classes, background included,"),
    }
    for key, (wanted, what) in decided.items():
        if key in parameters and parameters[key] != wanted:
            raise UsageError(
                f"expected {name} for the {wanted} {what} of {dataset.name}, got {key}={parameters[key]}; drop it, the "
                "data decide"
            )
    kept = {key: value for key, value in parameters.items() if key not in (*decided, "roi_size")}
    asked = read_window(parameters["roi_size"], f"roi_size of {name}") if "roi_size" in parameters else None
    return kept, asked


def load_factory(
    name: str,
    factory: Callable[..., Any],
    parameters: Mapping[str, Any],
    dataset: Dataset,
    choice: WindowChoice,
    checkpoint: Path | None = None,
) -> BroughtModel:
    """The network a factory builds; what it raises becomes one line.

    Args:
        name: as written, ``package.module:factory``.
        factory: takes what it declares of ``in_channels``, ``num_classes``, ``roi_size`` and ``checkpoint``, and
            the parameters; returns a network, which may tell its window as an attribute ``roi_size``, or a
            predictor (:class:`~robustvox.models.SlidingWindow`, :class:`~robustvox.models.case.CasePredictor`) that is
            used as it is.
        parameters: written behind the name.
        dataset: tells channels and classes.
        choice: the window for a network that tells none.
        checkpoint: of ``--checkpoint``.

    Raises:
        UsageError: anything the factory raises, no network, or one that cannot have the data's window or classes.
    """
    shown = canonical(name, {key: last_part(value) for key, value in parameters.items()})
    classes: dict[str, Any] = {"in_channels": dataset.in_channels, "num_classes": len(dataset.class_names)}
    given, asked = take_data_parameters(name, parameters, dataset)
    choice = choice if asked is None else choose_window(dataset, asked)

    def build(roi_size: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
        offered = {**classes, "roi_size": roi_size} | (
            {} if checkpoint is None else {"checkpoint": checkpoint}
        )
        model, window = _built(name, factory, offered, given)
        guessed = not choice.fixed and window == roi_size and any(side % UNASKED for side in window)
        if guessed and not can_be_asked(model.network if isinstance(model, SlidingWindow) else model):
            raise UsageError(
                f"expected a roi_size for {name}, which cannot be asked what it takes; give --roi-size"
            )
        return model, window

    (model, roi_size), _ = with_window(choice, build, UsageError)
    sha256 = state_sha256(model.network if isinstance(model, SlidingWindow) else model)
    if isinstance(model, SlidingWindow):
        note = f"its own window {roi_size}, overlap {model.overlap}, {model.mode} weights, not those of the protocol"
        return BroughtModel(name=shown, sha256=sha256, roi_size=roi_size, predictor=model, notes=(note,))
    if isinstance(model, CasePredictor):
        note = "its own predictor, which reads a case by itself"
        return BroughtModel(name=shown, sha256=sha256, roi_size=roi_size, predictor=model, notes=(note,))
    own = own_window(model) is not None
    return BroughtModel(
        name=shown, sha256=sha256, roi_size=roi_size, network=Foreign(model, name), own_window=own
    )


def _built(
    name: str, factory: Callable[..., Any], offered: Mapping[str, Any], parameters: Mapping[str, Any]
) -> tuple[nn.Module, tuple[int, ...]]:
    """What a factory returns, and its window: its own, or the one that was offered.

    Raises:
        UsageError: anything the factory raises, no network, or one that cannot have the window or the classes.
    """
    try:
        model = factory(**_accepted(name, factory, offered), **parameters)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: {blame(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected {name} to return a torch.nn.Module, got {type(model).__name__}")
    model.eval()
    roi_size = own_window(model) or offered["roi_size"]
    if isinstance(model, CasePredictor):
        return model, roi_size
    try:
        check_window(
            model.network if isinstance(model, SlidingWindow) else model,
            name,
            in_channels=offered["in_channels"],
            num_classes=offered["num_classes"],
            roi_size=roi_size,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return model, roi_size


def own_window(model: nn.Module) -> tuple[int, ...] | None:
    """The window a network tells, as an attribute ``roi_size`` of positive whole numbers."""
    found = getattr(model, "roi_size", None)
    if not isinstance(found, tuple | list) or not all(isinstance(side, int) and side > 0 for side in found):
        return None
    return tuple(found) or None


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
