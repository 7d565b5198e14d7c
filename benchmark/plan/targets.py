"""Published targets on the command line: `--model vista3d:prompts=click --checkpoint FILE`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustvox.datasets import Dataset
from robustvox.models import CheckpointError
from robustvox.models.prompted import COMMON, TARGETS, Inference, OpenedTarget, open_target

from ..craft.named import NamedModel
from ..specs.protocols import Protocol
from ..specs.spec import Spec, UsageError, canonical
from .bring import last_part

MEMINFO = Path("/proc/meminfo")


class PerCase(nn.Module):
    """Stands in for the predictor of a prompted model until there is a case.

    Raises:
        ValueError: in the forward, always.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        raise ValueError(
            f"expected {self.name} to be made for a case first (NamedModel.for_case), got an image of shape "
            f"{tuple(images.shape)}; `run`, `check`, `verify`, `figures`, `frequency`, `mark` and `marking` do it, this command does not"
        )


def load_target(
    spec: Spec,
    dataset: Dataset,
    protocol: Protocol,
    *,
    checkpoint: Path | None,
    device: str,
    sw_batch_size: int | str,
) -> NamedModel:
    """A published target with the user's weights, for the classes of a dataset.

    Raises:
        UsageError: no weights, other weights, classes or prompts it does not know, data of another modality, a
            protocol it cannot follow, or more memory than is free.
    """
    given = dict(spec.parameters)
    anyway = bool(given.pop("anyway", False))
    common = {key: given.pop(key) for key in COMMON if key in given}
    _check_data(spec.name, dataset, protocol, allowed=bool(common.get("allow_modality_mismatch")))
    if not anyway and not {*TARGETS[spec.name].resized_by} & given.keys():
        _check_memory(spec.name, device)
    try:
        opened = open_target(
            spec.name,
            checkpoint,
            dataset.class_names,
            inference=Inference(overlap=protocol.overlap, mode=protocol.mode, sw_batch_size=sw_batch_size),
            options=given,
            **common,
        )
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    opened.model.segmenter.to(device)
    # How prompts are made is part of the name, and so of every record.
    recipe = opened.model.recipe
    asked = {"prompts": recipe.kind} if recipe.kind != "none" else {}
    clicked = {"clicks": recipe.clicks, "click_seed": recipe.seed} if recipe.kind.startswith("click") else {}
    shown = {key: last_part(value) for key, value in {**common, **given, **asked, **clicked}.items()}
    name = canonical(spec.name, shown)
    return NamedModel(
        name=name,
        sha256=_identity(opened, common),
        predictor=PerCase(name),
        notes=opened.notes,
        prompted=opened.model,
        licence=opened.licence,
    )


def _identity(opened: OpenedTarget, common: Mapping[str, Any]) -> str:
    """The sha256 of the weights, and of the class map with them where the user gave one."""
    if "map" not in common:
        return opened.sha256
    return hashlib.sha256(repr((opened.sha256, opened.model.classes)).encode()).hexdigest()


def _check_data(name: str, dataset: Dataset, protocol: Protocol, *, allowed: bool) -> None:
    if dataset.in_channels != 1:
        raise UsageError(
            f"expected data of one channel for {name}, found {dataset.in_channels} in {dataset.name}; it takes CT"
        )
    if protocol.tiling:
        raise UsageError(
            f"expected a protocol without tiles for {name}, which sees its own grid, got {protocol.name}; say "
            f"--protocol {protocol.name}:tiling=false"
        )
    channels = tuple(str(channel).upper() for channel in getattr(dataset, "channels", ()))
    if channels and "CT" not in channels and name != "totalsegmentator" and not allowed:
        raise UsageError(
            f"expected CT for {name}, found {', '.join(channels)} in {dataset.name}; say "
            f"--model {name}:allow_modality_mismatch=true to run it all the same"
        )


def _check_memory(name: str, device: str) -> None:
    """Refuse a target whose measured need is more than what is free, before the run."""
    needed, free = TARGETS[name].gradient_gb, free_memory_gb(device)
    if needed is not None and free is not None and needed > free:
        about = "about " if TARGETS[name].scaled else ""
        raise UsageError(
            f"expected {about}{needed:.1f} GB for one window of {name} with its gradient on {device}, found {free:.1f} GB "
            f"free; it does not fit: free memory, or say --model {name}:anyway=true"
        )


def free_memory_gb(device: str) -> float | None:
    """What a new allocation can have, in GB; None where the system does not tell."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return free / 1e9
    if device != "cpu" or not MEMINFO.is_file():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 / 1e9 if "MemAvailable" in lines else None
