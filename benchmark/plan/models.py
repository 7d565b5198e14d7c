"""From names on the command line to attacks and predictors. Built-in, then entry points, then ``module:Name``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustvox.datasets import Dataset
from robustvox.models import CATALOG as MODEL_CATALOG
from robustvox.models import ZOO, CheckpointError, build_model, load_checkpoint
from robustvox.models.bring import BroughtModel, recognize

from ..craft.named import NamedModel
from ..specs.protocols import Protocol
from ..specs.spec import Spec, UsageError, canonical, match, normalize
from .registries import UnregisteredError, find_plugin, import_name
from .targets import find_target, load_target

if TYPE_CHECKING:
    from torch import nn


def choose_device(name: str) -> str:
    """``auto`` takes an accelerator when there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"expected a usable --device, got {name!r}: {str(error).splitlines()[0]}") from error
    return name


#: Parameters of a network that change how it is computed and none of its weights.
COMPUTED = ("scan",)


def load_model(
    text: str,
    dataset: Dataset,
    protocol: Protocol,
    *,
    checkpoint: Path | None = None,
    untrained: bool = False,
    device: str = "cpu",
    sw_batch_size: int = 4,
    seed: int = 0,
) -> NamedModel:
    """The predictor somebody typed: from the zoo or ``checkpoint``, from a path, from a factory, untrained if asked.

    For what was typed only: a path is opened, a factory imported and called. What a file names is
    :func:`recorded_model`'s.

    Raises:
        UsageError: unknown model, no checkpoint and not ``untrained``, or one that does not fit the dataset.
    """
    from .bring import last_part, load_factory, load_path, locate

    target = find_target(text)
    if target is not None:
        return load_target(
            target, dataset, protocol, checkpoint=checkpoint, device=device, sw_batch_size=sw_batch_size
        )
    located = locate(text, MODEL_CATALOG)
    if located is not None:
        path, parameters = located
        if checkpoint is not None:
            raise UsageError(
                f"expected no --checkpoint beside the path {path.name}, got {checkpoint.name}; a path is a model "
                "with its weights"
            )
        brought = load_path(path, parameters, dataset, protocol, sw_batch_size=sw_batch_size)
        shown = {key: last_part(value) for key, value in parameters.items()}
        brought = replace(brought, name=canonical(brought.name, shown))
        untrained = False
    elif (factory := _factory(spec := Spec.parse(text))) is not None:
        brought = load_factory(spec.name, factory, spec.parameters, dataset, checkpoint)
        untrained = False
    else:
        spec = Spec(match(spec.name, MODEL_CATALOG, "model"), spec.parameters)
        if spec.parameters.get("scan") == "mamba_ssm" and not device.startswith("cuda"):
            raise UsageError(
                f"expected a CUDA device for {text}, got {device}; say --device cuda or drop scan=mamba_ssm"
            )
        brought = _registered(spec, dataset, protocol, checkpoint, seed if untrained else None)
    return _predictor(brought, protocol, device, sw_batch_size, ("untrained",) if untrained else ())


def recorded_model(
    name: str, dataset: Dataset, protocol: Protocol, *, checkpoint: Path | None = None, device: str = "cpu"
) -> NamedModel:
    """The predictor that a file names: an architecture of the registry with its checkpoint, or a plug-in's.

    Nothing is imported and no path is opened for the sake of a file. A plug-in is called with the numbers that
    stand in the name; text there could be a path, so it is refused.

    Args:
        name: as recorded.
        dataset, protocol, device: as in :func:`load_model`.
        checkpoint: the file at hand with the recorded sha256.

    Raises:
        UnregisteredError: a model of somebody's own; whoever trusts it types it.
        UsageError: as :func:`load_model`.
    """
    from .bring import load_factory

    spec = Spec.parse(name)
    factory = find_recorded(spec)
    if factory is None:
        return load_model(name, dataset, protocol, checkpoint=checkpoint, device=device)
    return _predictor(load_factory(spec.name, factory, spec.parameters, dataset), protocol, device, 4, ())


def find_recorded(spec: Spec) -> Any | None:
    """The plug-in behind a recorded name, None for an architecture of the registry.

    Raises:
        UnregisteredError: it is neither.
    """
    if is_architecture(spec.name):
        return None
    factory = None if ":" in spec.name else find_plugin(spec.name, "robustvox.models")
    if factory is None or any(isinstance(value, str) for value in spec.parameters.values()):
        raise UnregisteredError(
            f"expected a model that is registered, found {str(spec)!r}, which is somebody's own: a name in a file is "
            "neither imported nor opened; type it yourself, --model with its factory or path, to allow it"
        )
    return factory


def is_architecture(name: str) -> bool:
    """Whether the registry has a model of this name."""
    return normalize(name) in map(normalize, MODEL_CATALOG)


def _predictor(
    brought: BroughtModel, protocol: Protocol, device: str, sw_batch_size: int, flags: tuple[str, ...]
) -> NamedModel:
    predictor = brought.as_predictor(protocol.overlap, protocol.mode, sw_batch_size).to(device).eval()
    return NamedModel(brought.name, brought.sha256, predictor, flags, brought.notes, brought.spacing_mm)


def _registered(
    spec: Spec, dataset: Dataset, protocol: Protocol, checkpoint: Path | None, seed: int | None
) -> BroughtModel:
    """An architecture of the registry with random weights of ``seed``, or those of a file."""
    from robustvox.models.checkpoint import state_sha256

    from .bring import load_path

    name = canonical(spec.name, spec.parameters)
    if seed is not None:
        network = _untrained(spec, dataset, seed)
        return BroughtModel(
            name=name, sha256=state_sha256(network), roi_size=tuple(dataset.roi_size), network=network
        )
    if checkpoint is not None and _is_foreign(checkpoint):
        brought = load_path(checkpoint, spec.parameters, dataset, protocol, architecture=spec.name)
        return replace(brought, name=name)
    file = checkpoint or ZOO / dataset.name / f"{spec.name}.safetensors"
    loaded = _load(file, spec.name, dataset, spec)
    return BroughtModel(
        name=name, sha256=loaded.sha256, roi_size=loaded.card.roi_size, network=loaded.network
    )


def _factory(spec: Spec) -> Any | None:
    """The callable behind ``package.module:factory``, or behind the name of an entry point."""
    if ":" in spec.name:
        return import_name(spec.name, "model")
    if is_architecture(spec.name):
        return None
    return find_plugin(spec.name, "robustvox.models")


def _is_foreign(checkpoint: Path) -> bool:
    """Whether a file is a PyTorch checkpoint rather than one of ours."""
    with contextlib.suppress(CheckpointError):
        return recognize(checkpoint) == "published"
    return False


def _load(path: Path, name: str, dataset: Dataset, spec: Spec) -> Any:
    if path.is_dir():
        raise UsageError(
            f"expected a file as --checkpoint of {name}, found the folder {path.name}; a folder is given to --model"
        )
    if not path.is_file():
        raise UsageError(
            f"expected a checkpoint of {name} for {dataset.name} at {path.name}, found none; train one with "
            f"`python -m benchmark train --model {name} --dataset {dataset.name}`, give --checkpoint FILE, "
            "or say --untrained"
        )
    try:
        computed = {k: v for k, v in spec.parameters.items() if k in COMPUTED}
        loaded = load_checkpoint(path, architecture=name, overrides=computed)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    card = loaded.card
    if card.num_classes != len(dataset.class_names) or card.in_channels != dataset.in_channels:
        raise UsageError(
            f"expected a checkpoint for {dataset.in_channels} channel(s) and {len(dataset.class_names)} classes of "
            f"{dataset.name}, found {card.in_channels} and {card.num_classes} (trained on {card.dataset}) in "
            f"{path.name}; give the right --checkpoint"
        )
    fixed = {k: v for k, v in spec.parameters.items() if k not in COMPUTED}
    wrong = [k for k, v in fixed.items() if card.arguments.get(k) != v]
    if wrong:
        raise UsageError(
            f"expected {name} with {', '.join(f'{k}={spec.parameters[k]}' for k in wrong)}, found "
            f"{dict(card.arguments)} in {path.name}; drop the parameter or give another --checkpoint"
        )
    return loaded


def _untrained(spec: Spec, dataset: Dataset, seed: int) -> nn.Module:
    import torch

    arguments = {"size": "small", **spec.parameters}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(
                spec.name,
                in_channels=dataset.in_channels,
                num_classes=len(dataset.class_names),
                roi_size=dataset.roi_size,
                **arguments,
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
