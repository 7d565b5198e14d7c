"""From names on the command line to attacks and predictors. Built-in, then entry points, then ``module:Name``."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustvox.datasets import Dataset, channel_names_of
from robustvox.models import CheckpointError, ModelCard, build_model, load_checkpoint
from robustvox.models.bring import BroughtModel, recognize
from robustvox.models.class_order import require_channels, require_order
from robustvox.models.prompted import TARGETS

from ..craft.named import ModelWindow, NamedModel
from ..specs.compute import Compute
from ..specs.defences import CATALOG as DEFENCES
from ..specs.defences import defended
from ..specs.protocols import Protocol
from ..specs.spec import Spec, UsageError, canonical
from .bring import last_part, load_factory, load_path, take_data_parameters
from .computing import computed, split_precision
from .model_text import ByFactory, ByPath, ModelText, Registered, is_architecture, parse_model
from .registries import UnregisteredError, find_plugin
from .source import with_source
from .targets import load_target
from .windows import WindowChoice, choose_window, with_window
from .zoo import training_command, zoo_file

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
    text: str | ModelText,
    dataset: Dataset,
    protocol: Protocol,
    *,
    checkpoint: Path | None = None,
    untrained: bool = False,
    device: str = "cpu",
    compute: Compute | None = None,
    seed: int = 0,
    roi_size: tuple[int, ...] | None = None,
) -> NamedModel:
    """The predictor somebody typed: from the zoo or ``checkpoint``, from a path, from a factory, untrained if asked.

    For what was typed only: a path is opened, a factory imported and called. What a file names is
    :func:`recorded_model`'s.

    Args:
        text: as written, or what :func:`~robustvox.benchmark.plan.model_text.parse_model` made of it.
        dataset: tells channels, classes, cases, and the window of a network that has none.
        protocol: how volumes are predicted.
        checkpoint: weights for a name.
        untrained: random weights of ``seed`` for a name of the registry.
        device: where it runs.
        compute: how it runs.
        seed: see ``untrained``.
        roi_size: of ``--roi-size``, for a network that tells no window.

    Raises:
        UsageError: unknown model, no checkpoint and not ``untrained``, or one that does not fit the dataset.
    """
    choice = choose_window(dataset, roi_size)
    given = parse_model(text) if isinstance(text, str) else text
    compute = compute or Compute()
    compute = replace(compute, precision=given.precision or compute.precision)
    if isinstance(given, Registered) and given.spec.name in TARGETS:
        return load_target(
            given.spec,
            dataset,
            protocol,
            checkpoint=checkpoint,
            device=device,
            sw_batch_size=compute.sw_batch_size,
        )
    if isinstance(given, ByPath):
        brought = _from_path(given, dataset, protocol, checkpoint, choice, compute)
    elif isinstance(given, ByFactory):
        choice = _written_window(given.spec, dataset, choice)
        brought = load_factory(
            given.spec.name, given.factory, given.spec.parameters, dataset, choice, checkpoint
        )
        brought = replace(brought, sha256=with_source(brought.sha256, given.factory))
    else:
        _require_device(given.spec, device)
        choice = _written_window(given.spec, dataset, choice)
        brought = _registered(
            _written(given.spec, dataset, given.defence),
            dataset,
            protocol,
            checkpoint,
            seed if untrained else None,
            choice,
        )
    untrained = untrained and isinstance(given, Registered)
    flags = ("untrained",) if untrained else ()
    named = _named(brought, protocol, choice, device, compute, flags)
    return replace(named, notes=(*named.notes, *_unused(brought, roi_size)))


def _from_path(
    given: ByPath,
    dataset: Dataset,
    protocol: Protocol,
    checkpoint: Path | None,
    choice: WindowChoice,
    compute: Compute,
) -> BroughtModel:
    if checkpoint is not None:
        raise UsageError(
            f"expected no --checkpoint beside the path {given.path.name}, got {checkpoint.name}; a path is a model "
            "with its weights"
        )
    brought = load_path(
        given.path,
        given.parameters,
        dataset,
        protocol,
        choice=choice,
        sw_batch_size=compute.sw_batch_size,
    )
    shown = {key: last_part(value) for key, value in given.parameters.items()}
    return replace(brought, name=canonical(brought.name, shown))


def _written_window(spec: Spec, dataset: Dataset, choice: WindowChoice) -> WindowChoice:
    """The window that is written behind a name, else the one chosen so far."""
    asked = take_data_parameters(spec.name, spec.parameters, dataset)[1]
    return choice if asked is None else choose_window(dataset, asked)


def _written(spec: Spec, dataset: Dataset, defence: str) -> Written:
    parameters, asked = take_data_parameters(spec.name, spec.parameters, dataset)
    shown = canonical(spec.name, spec.parameters)
    return Written(spec.name, parameters, asked, shown, defence)


def _require_device(spec: Spec, device: str) -> None:
    scan = spec.parameters.get("scan")
    if scan in ("triton", "mamba_ssm") and not device.startswith("cuda"):
        raise UsageError(
            f"expected a CUDA device for {spec}, got {device}; say --device cuda or drop scan={scan}"
        )


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
    plain, precision = split_precision(name, "float32")
    spec = Spec.parse(plain)
    factory = find_recorded(spec)
    if factory is None:
        return load_model(name, dataset, protocol, checkpoint=checkpoint, device=device)
    choice = choose_window(dataset, None)
    brought = load_factory(spec.name, factory, spec.parameters, dataset, choice)
    brought = replace(brought, sha256=with_source(brought.sha256, factory))
    return _named(brought, protocol, choice, device, Compute(precision=precision))


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


def _named(
    brought: BroughtModel,
    protocol: Protocol,
    choice: WindowChoice,
    device: str,
    compute: Compute,
    flags: tuple[str, ...] = (),
) -> NamedModel:
    """The named predictor; a precision other than float32 is part of its name and one of its flags."""
    name, precision = brought.name, compute.precision
    predictor = brought.as_predictor(protocol.overlap, protocol.mode, compute.sw_batch_size, protocol.padding)
    if precision != "float32":
        name, flags = f"{name}{',' if '=' in name else ':'}precision={precision}", (*flags, precision)
    predictor = computed(predictor, name, compute)
    return NamedModel(
        name,
        _identity(brought, choice),
        predictor.to(device).eval(),
        flags,
        brought.notes,
        None if brought.resamples else brought.spacing_mm,
        ModelWindow(brought.roi_size, "the model" if brought.own_window else choice.source),
        brought.held_out,
        brought.trained_on,
        claimed=brought.claimed,
    )


def _identity(brought: BroughtModel, choice: WindowChoice) -> str:
    """The sha256 of a model, with its window where neither the model nor the dataset decides that."""
    if brought.own_window or not choice.in_identity:
        return brought.sha256
    return hashlib.sha256(repr((brought.sha256, brought.roi_size)).encode()).hexdigest()


def _unused(brought: BroughtModel, roi_size: tuple[int, ...] | None) -> tuple[str, ...]:
    if roi_size is None or not brought.own_window or brought.roi_size == roi_size:
        return ()
    shown, asked = ("x".join(map(str, sizes)) for sizes in (brought.roi_size, roi_size))
    return (f"its own window {shown} is used, not {asked} of --roi-size",)


@dataclass(frozen=True)
class Written:
    """A model of the registry as written, without what the data decide.

    Args:
        name: of the registry.
        parameters: of the architecture.
        roi_size: the window that was asked for behind the name.
        shown: canonical spec, for people.
        defence: that the weights were trained with; empty for none, or for what the checkpoint says.
    """

    name: str
    parameters: Mapping[str, Any]
    roi_size: tuple[int, ...] | None
    shown: str
    defence: str = ""

    @property
    def file(self) -> str:
        """Of its weights in a zoo, without the suffix."""
        return f"{self.name}.{self.defence}" if self.defence else self.name


def _registered(
    written: Written,
    dataset: Dataset,
    protocol: Protocol,
    checkpoint: Path | None,
    seed: int | None,
    choice: WindowChoice,
) -> BroughtModel:
    """An architecture of the registry with random weights of ``seed``, or those of a file."""
    from robustvox.models.checkpoint import state_sha256

    name, asked = written.shown, written.roi_size
    if written.defence and (seed is not None or (checkpoint is not None and _is_foreign(checkpoint))):
        raise UsageError(
            f"expected a checkpoint of ours for {defended(name, written.defence)}, whose card says how it was trained, "
            "found none; drop the defence from the name"
        )
    if seed is not None:
        network, roi_size = _untrained(written, dataset, seed, choice)
        return BroughtModel(
            name=name, sha256=state_sha256(network), roi_size=roi_size, network=network, own_window=False
        )
    if checkpoint is not None and _is_foreign(checkpoint):
        given = {**written.parameters, **({"roi_size": asked} if asked is not None else {})}
        brought = load_path(checkpoint, given, dataset, protocol, choice=choice, architecture=written.name)
        return replace(brought, name=name)
    file = checkpoint or zoo_file(dataset, written.file)
    loaded = _load(file, written, dataset)
    name = defended(name, written.defence or defence_of(loaded.card))
    roi_size = loaded.card.roi_size
    if asked is not None and tuple(asked) != tuple(roi_size):
        raise UsageError(
            f"expected {written.name} with the window {tuple(roi_size)} it was trained on in {file.name}, got "
            f"roi_size={tuple(asked)}; drop it or give another --checkpoint"
        )
    return BroughtModel(
        name=name,
        sha256=loaded.sha256,
        roi_size=roi_size,
        network=loaded.network,
        claimed=loaded.card.validation_dice,
    )


def defence_of(card: ModelCard) -> str:
    """The defence that a checkpoint was trained with, as its card says; empty for none."""
    return card.defence if card.defence in DEFENCES else ""


def _is_foreign(checkpoint: Path) -> bool:
    """Whether a file is a PyTorch checkpoint rather than one of ours."""
    with contextlib.suppress(CheckpointError):
        return recognize(checkpoint) == "published"
    return False


def _load(path: Path, written: Written, dataset: Dataset) -> Any:
    name, parameters = written.name, written.parameters
    if path.is_dir():
        raise UsageError(
            f"expected a file as --checkpoint of {name}, found the folder {path.name}; a folder is given to --model"
        )
    if not path.is_file():
        raise UsageError(
            f"expected a checkpoint of {defended(name, written.defence)} for {dataset.name} at {path.name}, found none; "
            f"train one with `{training_command(name, written.defence, dataset)}`, give --checkpoint FILE, or say --untrained"
        )
    try:
        computed = {k: v for k, v in parameters.items() if k in COMPUTED}
        loaded = load_checkpoint(path, architecture=name, overrides=computed)
        require_order(loaded.card.class_names, dataset.class_names, path.name)
        require_channels(loaded.card.channel_names, channel_names_of(dataset), path.name)
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    card = loaded.card
    if card.num_classes != len(dataset.class_names) or card.in_channels != dataset.in_channels:
        raise UsageError(
            f"expected a checkpoint for {dataset.in_channels} channel(s) and {len(dataset.class_names)} classes of "
            f"{dataset.name}, found {card.in_channels} and {card.num_classes} (trained on {card.dataset}) in "
            f"{path.name}; give the right --checkpoint"
        )
    if written.defence and defence_of(card) != written.defence:
        raise UsageError(
            f"expected weights of {name} trained with {written.defence}, found {defence_of(card) or 'no defence'} in the "
            f"card of {path.name}; name it {defended(name, defence_of(card))} or give another --checkpoint"
        )
    fixed = {k: v for k, v in parameters.items() if k not in COMPUTED}
    wrong = [k for k, v in fixed.items() if card.arguments.get(k) != v]
    if wrong:
        raise UsageError(
            f"expected {name} with {', '.join(f'{k}={parameters[k]}' for k in wrong)}, found "
            f"{dict(card.arguments)} in {path.name}; drop the parameter or give another --checkpoint"
        )
    return loaded


def _untrained(
    written: Written, dataset: Dataset, seed: int, choice: WindowChoice
) -> tuple[nn.Module, tuple[int, ...]]:
    """The network with random weights of ``seed``, and the window it takes."""
    arguments = {"size": "small", **written.parameters}

    def build(roi_size: tuple[int, ...]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(
                written.name,
                in_channels=dataset.in_channels,
                num_classes=len(dataset.class_names),
                roi_size=roi_size,
                **arguments,
            )

    try:
        return with_window(choice, build, ValueError)
    except ValueError as error:
        raise UsageError(str(error)) from error
