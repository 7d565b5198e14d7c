"""From names on the command line to attacks and predictors. Built-in, then entry points, then ``module:Name``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustvox.datasets import ALIASES as DATASET_ALIASES
from robustvox.datasets import CATALOG as DATASET_CATALOG
from robustvox.datasets import Dataset, DatasetError, open_dataset
from robustvox.models import CATALOG as MODEL_CATALOG
from robustvox.models import CheckpointError, build_model, load_checkpoint
from robustvox.models.bring import BroughtModel, recognize

from .protocols import Protocol
from .specs import Spec, UsageError, canonical, match, normalize

if TYPE_CHECKING:
    from torch import nn

    from robustvox.attacks import Attack
    from robustvox.attacks.interop import TorchAttack

#: Parameters of a network that change how it is computed and none of its weights.
COMPUTED = ("scan",)
ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"


@dataclass(frozen=True)
class NamedAttack:
    """An attack and its identity in records: the canonical spec with all defaults filled in."""

    spec: str
    attack: Attack


@dataclass(frozen=True)
class NamedModel:
    """A whole-volume predictor and its identity: the name people read, and the sha256 of its weights."""

    name: str
    sha256: str
    predictor: nn.Module
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None


def load_attack(text: str, protocol: Protocol | None = None) -> NamedAttack:
    """Build the attack a spec like ``pgd:eps=8/255,steps=20`` or ``torchattacks:MIFGSM,eps=8/255`` names.

    Args:
        text: the spec; ``iterate=last`` returns the last point of an iterative attack instead of the best.
        protocol: fills in what ``text`` leaves open, as `Protocol.attack_defaults` says; the spec of the result
            states it all and needs no protocol to be read back.

    Raises:
        UsageError: unknown attack or parameter, or a value the attack refuses.

    Example:
        >>> from robustvox.benchmark.protocols import PROTOCOLS
        >>> load_attack("pgd:steps=10", PROTOCOLS["bmvc2024"]).spec
        'pgd:alpha=0.01,eps=8/255,iterate=last,loss=dice_ce,random_start=false,restarts=1,steps=10'
    """
    from robustvox.attacks import ATTACKS

    from .matching import load_matched, split_spec
    from .published import PUBLISHED, LastIterate

    matched = split_spec(text)
    if matched is not None:
        return load_matched(matched, protocol)
    package, _, rest = text.partition(":")
    if normalize(package) == "torchattacks":
        return _torchattack(rest)
    spec = Spec.parse(text)
    registry = {**ATTACKS, **PUBLISHED}
    name, kind = _resolve(spec.name, registry, "robustvox.attacks", "attack")
    if protocol is not None and protocol.mean_cosine and name == "cospgd":
        name, kind = "cospgd_mean", PUBLISHED["cospgd_mean"]
    written = {**(protocol.attack_defaults(name) if protocol else {}), **spec.parameters}
    last = _takes_last(name, written)
    known = {f.name: f for f in fields(kind) if f.init}
    _check_parameters(name, written, list(known))
    # `none` is a word where the parameter is one (VAFA's renorm) and no value elsewhere (its eps).
    words = {k for k, f in known.items() if isinstance(f.default, str)}
    parameters = {k: "none" if v is None and k in words else v for k, v in written.items()}
    try:
        attack = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error
    attack = LastIterate(attack=attack) if last else attack
    return NamedAttack(attack_spec(name, attack), attack)


def _takes_last(name: str, parameters: dict[str, Any]) -> bool:
    """Take ``iterate`` out of the parameters and say whether the last iterate is meant."""
    from .published import WITH_ITERATES

    if name not in WITH_ITERATES or "iterate" not in parameters:
        return False
    iterate = parameters.pop("iterate")
    if iterate not in ("best", "last"):
        raise UsageError(f"{name}: expected iterate to be best or last, got {iterate!r}")
    return iterate == "last"


def attack_spec(name: str, attack: Attack) -> str:
    """Canonical spec of an attack object under a registry name."""
    from robustvox.attacks.interop import TorchAttack

    from .published import LastIterate

    if isinstance(attack, LastIterate):
        inner = attack.attack
        named = {f.name: getattr(inner, f.name) for f in fields(inner) if f.init}
        return canonical(name, {**named, "iterate": "last"})
    if isinstance(attack, TorchAttack):
        named = {} if name == _torchattack_name(attack) else {"attack": attack.name}
        return canonical(name, {**named, **dict(attack.parameters)})
    return canonical(name, {f.name: getattr(attack, f.name) for f in fields(attack) if f.init})


def _torchattack(text: str) -> NamedAttack:
    """The attack that ``NAME[,key=value,...]`` or ``NAME[:key=value,...]`` names in the torchattacks package."""
    from robustvox.attacks.interop import TorchAttack

    spec = Spec.parse(":".join(re.split("[:,]", text, maxsplit=1)))
    try:
        attack = TorchAttack(name=spec.name, parameters=spec.parameters)
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(f"torchattacks: {str(error).removeprefix('torchattacks: ')}") from error
    return NamedAttack(attack_spec(_torchattack_name(attack), attack), attack)


def _torchattack_name(attack: TorchAttack) -> str:
    return f"torchattacks:{attack.name}"


def load_dataset(name: str, data_root: str | Path | None) -> Dataset:
    """Open a dataset by name, plug-in or path; a wrong name or folder is a :class:`UsageError`."""
    try:
        known = {**DATASET_CATALOG, **DATASET_ALIASES}
        if name not in known and (Path(name).is_dir() or name.lower().endswith(".csv")):
            return open_dataset(name)
        try:
            return open_dataset(match(name, known, "dataset"), data_root)
        except UsageError:
            plugin = _plugin(name, "robustvox.datasets")
            if plugin is None:
                raise
            return plugin(Path(data_root) if data_root is not None else None)
    except DatasetError as error:
        raise UsageError(str(error)) from error


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
    """The predictor a spec names: from the zoo or ``checkpoint``, from a path, from a factory, untrained if asked.

    Raises:
        UsageError: unknown model, no checkpoint and not ``untrained``, or one that does not fit the dataset.
    """
    from .bringing import last_part, load_factory, load_path, locate

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
        scan = spec.parameters.get("scan")
        if scan in ("triton", "mamba_ssm") and not device.startswith("cuda"):
            raise UsageError(
                f"expected a CUDA device for {text}, got {device}; say --device cuda or drop scan={scan}"
            )
        brought = _registered(spec, dataset, protocol, checkpoint, seed if untrained else None)
    predictor = brought.as_predictor(protocol.overlap, protocol.mode, sw_batch_size)
    flags = ("untrained",) if untrained else ()
    predictor = predictor.to(device).eval()
    return NamedModel(brought.name, brought.sha256, predictor, flags, brought.notes, brought.spacing_mm)


def _registered(
    spec: Spec, dataset: Dataset, protocol: Protocol, checkpoint: Path | None, seed: int | None
) -> BroughtModel:
    """An architecture of the registry with random weights of ``seed``, or those of a file."""
    from robustvox.models.checkpoint import state_sha256

    from .bringing import load_path

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
        return _import(spec.name, "model")
    if normalize(spec.name) in map(normalize, MODEL_CATALOG):
        return None
    return _plugin(spec.name, "robustvox.models")


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


def _resolve(name: str, registry: Mapping[str, Any], group: str, what: str) -> tuple[str, Any]:
    try:
        key = match(name, registry, what)
        return key, registry[key]
    except UsageError:
        plugin = _plugin(name, group) or (_import(name, what) if ":" in name else None)
        if plugin is None:
            raise
        return name, plugin


def _plugin(name: str, group: str) -> Any | None:
    for entry in importlib.metadata.entry_points(group=group):
        if entry.name == name:
            return entry.load()
    return None


def _import(path: str, what: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        from .bringing import blame

        found = error if isinstance(error, ImportError | AttributeError | ValueError) else blame(error)
        raise UsageError(
            f"expected {what} {path!r} as NAME:key=value,... or as an importable package.module:Name, found: {found}"
        ) from error


def _check_parameters(name: str, parameters: Mapping[str, Any], known: Sequence[str]) -> None:
    import difflib

    for key in parameters:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}"
            raise UsageError(f"{name} has no parameter {key!r}; {hint}")
