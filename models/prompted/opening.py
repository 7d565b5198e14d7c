"""From the name of a published target and the user's file to a model that is ready for cases."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..header import CheckpointError
from .catalog import COMMON, TARGETS
from .classes import ClassMap, match_classes, read_map
from .loaded import Loaded
from .prompts import PromptRecipe
from .target import Inference, PromptedModel, Segmenter
from .weights import Origin

_MODULES = {
    "obelisk_hybrid": "obelisk",
    "obelisk_unet": "obelisk",
    "vista3d": "vista3d",
    "suprem_swin_unetr": "suprem",
    "suprem_segresnet": "suprem",
    "totalsegmentator": "totalsegmentator",
    "sam_med3d": "sam_med3d",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedTarget:
    """A published target for one set of classes.

    Args:
        model: makes a module per case.
        sha256: of the file of the weights.
        notes: printed before a run: the licence, what was read, what the user should know.
        licence: stored with the records.
    """

    model: PromptedModel
    sha256: str
    notes: tuple[str, ...]
    licence: str


def open_target(
    name: str,
    weights: str | Path | None,
    class_names: Sequence[str],
    *,
    prompts: str | None = None,
    clicks: int = 1,
    click_seed: int = 0,
    map: str | Path | None = None,
    allow_modality_mismatch: bool = False,
    inference: Inference | None = None,
    options: Mapping[str, Any] | None = None,
) -> OpenedTarget:
    """Load a target of :data:`~.catalog.TARGETS` with the user's weights, for the classes of the data.

    Args:
        name: key of the catalog.
        weights: the user's file or folder; nothing is ever downloaded.
        class_names: of the data, background first.
        prompts: kind of prompt; default the first of the catalog.
        clicks: points per class.
        click_seed: of the clicks.
        map: JSON of classes whose names differ or that join several, see :func:`~.classes.read_map`.
        allow_modality_mismatch: run a CT model on other data.
        inference: how windows are combined; default the protocol's half overlap.
        options: of the adapter, such as ``fold`` of an nnU-Net folder.

    Raises:
        CheckpointError: an unknown target, no file, other weights, classes it does not know, a kind of prompt it
            does not take. One line each; no network ever runs on partly loaded weights.
    """
    if name not in TARGETS:
        raise CheckpointError(f"expected a target among {', '.join(TARGETS)}, got {name!r}")
    adapter = importlib.import_module(f".{_MODULES[name]}", __package__)
    load: Callable[..., Loaded] = adapter.load
    origin: Origin = adapter.ORIGIN
    inference = inference or Inference()
    arguments = dict(options or {})
    taken = inspect.signature(load).parameters
    own = [key for key in taken if key not in ("name", "path", "inference")]
    unknown = sorted(arguments.keys() - {*own})
    if unknown and not any(given.kind is inspect.Parameter.VAR_KEYWORD for given in taken.values()):
        raise CheckpointError(
            f"{name}: expected parameters among {', '.join([*COMMON, *own])}, got {', '.join(unknown)}"
        )
    if "inference" in taken:
        arguments["inference"] = inference
    try:
        recipe = PromptRecipe(kind=prompts or TARGETS[name].prompts[0], clicks=clicks, seed=click_seed)
        loaded = load(name, weights, **arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name}: {error}") from error
    segmenter = loaded.segmenter
    classes = _classes(name, segmenter, class_names, map)
    try:
        model = PromptedModel(
            name=name,
            segmenter=segmenter,
            spec=loaded.spec,
            classes=classes,
            recipe=recipe,
            inference=inference,
            allow_modality_mismatch=allow_modality_mismatch,
        )
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    read = f"weights {loaded.weights.name}: {loaded.weights.report()}"
    notes = (f"licence of the weights: {origin.licence}", read, *loaded.notes)
    return OpenedTarget(model=model, sha256=loaded.weights.sha256, notes=notes, licence=origin.licence)


def _classes(name: str, segmenter: Segmenter, class_names: Sequence[str], map: str | Path | None) -> ClassMap:
    if not segmenter.channel_names:
        # A network without names of organs: any class can be clicked on.
        return ClassMap(channels=tuple((k,) for k in range(len(class_names) - 1)), background=())
    return match_classes(
        segmenter.channel_names,
        class_names,
        overlapping=segmenter.overlapping,
        name=name,
        mapping=read_map(map) if map is not None else None,
    )
