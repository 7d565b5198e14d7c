"""Trained-model folders of nnU-Net v2: the plan's network with its weights, under nnU-Net's own inference.

nnU-Net itself is not needed, only the package with its network classes (``pip install robustvox[nnunet]``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..activations import require_forward
from ..checkpoint import file_sha256, require_plain
from ..class_order import in_order, require_channels, require_order
from ..documents import checked, read_document
from ..header import CheckpointError
from ..limits import require_window
from .brought import BroughtModel
from .folds import Folds
from .nnunet_plan import (
    build_network,
    check_data,
    check_plan,
    configuration,
    normalizations,
    refusal,
    resampling,
)
from .nnunet_predictor import NnUNetPredictor, side_text
from .schemas import Plans, TrainedOn
from .weights import read_checkpoint

EACH = "cv"
"""``fold=cv``: every case on the network of the fold that was not trained on it."""

READING = 2
"""Counts the ways in which files were read here, so that records of an earlier way are not taken for today's."""


def load(
    folder: Path,
    *,
    in_channels: int,
    num_classes: int,
    fold: str = "0",
    checkpoint: str = "checkpoint_final.pth",
    overlap: float = 0.5,
    mode: str = "gaussian",
    sw_batch_size: int | str = 1,
    window: tuple[float, float] | None = None,
    folds: Folds | None = None,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
) -> BroughtModel:
    """The model of ``nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.

    Args:
        folder: with `plans.json`, `dataset.json` and `fold_X/checkpoint_final.pth`.
        in_channels: image channels of the data.
        num_classes: classes of the data, background included.
        fold: number or ``all``; several joined by ``+`` (``0+1+2``) are averaged; ``cv`` gives every case to the fold that
            held it out.
        checkpoint: file in the fold's folder.
        overlap: one less nnU-Net's ``tile_step_size``.
        mode: ``"gaussian"`` or ``"constant"`` weights of the windows.
        sw_batch_size: windows per forward.
        window: original intensities that are 0 and 1 in the data, for images of which no case is known.
        folds: which of the data's cases each fold was trained on, where that is known.
        class_names: of the data; a model that has the same ones in another order is refused.
        channel_names: of the data, likewise.

    Raises:
        CheckpointError: a plan that cannot be followed (2d, cascade, regions, own preprocessing, another network),
            other channels or classes, a checkpoint of more than tensors and numbers, other weights.
    """
    plans, dataset = read_document(folder / "plans.json"), read_document(folder / "dataset.json")
    checked(Plans, plans, f"plans.json of {folder.resolve().name}")
    checked(TrainedOn, dataset, f"dataset.json of {folder.resolve().name}")
    names = _fold_names(folder, fold, folds)
    files = [folder / f"fold_{name}" / Path(checkpoint).name for name in names]
    contents = [_read(file, folder) for file in files]
    found = {_configuration_name(content, file) for content, file in zip(contents, files, strict=True)}
    if len(found) != 1:
        raise refusal(folder, "folds of one configuration", ", ".join(sorted(found)), "name them one by one")
    plan = configuration(plans, found.pop(), folder)
    check_plan(plans, plan, folder)
    name = folder.resolve().name
    require_order(check_data(dataset, in_channels, num_classes, folder), class_names, name)
    require_channels(in_order(dataset.get("channel_names") or dataset.get("modality")), channel_names, name)
    require_window(tuple(plan["patch_size"]), in_channels + num_classes, folder.resolve().name)
    networks = [
        build_network(plan, content, in_channels, num_classes, file.name, folder)
        for content, file in zip(contents, files, strict=True)
    ]
    require_forward(networks[0], in_channels=in_channels, roi_size=plan["patch_size"], what=name)
    _check_window(window, folder)
    reorient = plans["image_reader_writer"].endswith("WithReorient")
    held_out, trained_on, note = _cases(folds, fold, names)
    by_case = _by_case(folds, names) if fold == EACH else None
    predictor = NnUNetPredictor(
        networks,
        normalizations(plans, plan, in_channels, window, folder),
        plan["patch_size"],
        plans["transpose_forward"],
        overlap=overlap,
        mode=mode,
        sw_batch_size=sw_batch_size,
        crop=window is None,
        spacing_mm=plan["spacing"],
        resampling=resampling(plan, folder),
        reorient=reorient,
        held_out=by_case,
    ).eval()
    spacing_mm = tuple(float(plan["spacing"][predictor.order.index(axis)]) for axis in range(3))
    identity = [file_sha256(file) for file in (folder / "plans.json", folder / "dataset.json", *files)]
    return BroughtModel(
        name=folder.resolve().name,
        sha256=_sha256(fold, identity, window, by_case, trained_on),
        roi_size=predictor.roi_size,
        predictor=predictor,
        notes=(
            "test-time mirroring is off",
            f"read as nnU-Net reads it: axes {'turned to RAS' if reorient else 'as stored in the file'}, intensities of the "
            f"file, resampled to {side_text(spacing_mm)} mm in those axes and the logits back",
            *note,
        ),
        spacing_mm=spacing_mm,
        resamples=True,
        held_out=held_out,
        trained_on=trained_on,
    )


def _check_window(window: tuple[float, float] | None, folder: Path) -> None:
    good = window is None or (
        isinstance(window, tuple)
        and len(window) == 2
        and all(isinstance(v, int | float) and math.isfinite(v) for v in window)
        and window[0] < window[1]
    )
    if not good:
        raise refusal(
            folder, "window as (low, high), the low end first", repr(window), "write window=(-175,250)"
        )


def _sha256(
    fold: str,
    files: Sequence[str],
    window: tuple[float, float] | None,
    by_case: Mapping[str, int] | None,
    trained_on: frozenset[str],
) -> str:
    """Of all that decides what is predicted, and of what rows are flagged for: other folds ask for rows of their own."""
    told = sorted(by_case.items()) if by_case is not None else sorted(trained_on)
    identity = (READING, fold, list(files), window, *([told] if told else []))
    return hashlib.sha256(repr(identity).encode()).hexdigest()


def _fold_names(folder: Path, fold: str, folds: Folds | None) -> list[str]:
    """The folders that ``fold`` asks for."""
    if fold != EACH:
        return fold.split("+")
    if folds is None:
        raise refusal(
            folder,
            "cases whose folds are known for fold=cv",
            "neither splits_final.json nor the data of the training",
            "put splits_final.json beside plans.json, or choose a fold",
        )
    present = [str(index) for index in range(len(folds.held_out)) if (folder / f"fold_{index}").is_dir()]
    if not present:
        raise refusal(folder, "fold_0, fold_1, ...", "none of them", "choose fold=all")
    return present


def _by_case(folds: Folds | None, names: Sequence[str]) -> dict[str, int]:
    """Which of the folds held each case out."""
    assignment = {}
    for index, name in enumerate(names):
        known = folds.of(name) if folds is not None else None
        assignment.update(dict.fromkeys(known[0] if known else (), index))
    return assignment


def _cases(
    folds: Folds | None, fold: str, names: Sequence[str]
) -> tuple[tuple[str, ...] | None, frozenset[str], tuple[str, ...]]:
    """What the chosen folds held out and were trained on, among the data's cases, and a note that says so."""
    known = [folds.of(name) for name in names] if folds is not None else []
    if folds is None or not known or None in known:
        return None, frozenset(), ("which cases it was trained on is not known; see docs/own_model.md",)
    pairs = [pair for pair in known if pair is not None]
    if fold == EACH:
        held_out = frozenset().union(*(pair[0] for pair in pairs))
        return (
            tuple(sorted(held_out)),
            frozenset(),
            (f"each case on the fold that held it out, by {folds.source}",),
        )
    trained_on = frozenset().union(*(pair[1] for pair in pairs))
    held_out = frozenset.intersection(*(pair[0] for pair in pairs)) - trained_on
    note = f"trained on {len(trained_on)} of the data's cases, {len(held_out)} held out, by {folds.source}"
    return tuple(sorted(held_out)), trained_on, (note,)


def _read(file: Path, folder: Path) -> Mapping[str, Any]:
    if not file.is_file():
        present = sorted(p.relative_to(folder).as_posix() for p in folder.glob("fold_*/*.pth"))
        wanted = file.relative_to(folder).as_posix()
        raise refusal(
            folder, wanted, ", ".join(present) or "no checkpoint", "choose with fold and checkpoint"
        )
    content = read_checkpoint(file)
    weights = content.get("network_weights") if isinstance(content, Mapping) else None
    named = isinstance(weights, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    )
    if not named:
        raise refusal(
            folder, f"network_weights of nnU-Net v2 in {file.name}", "none", "give its own checkpoint"
        )
    require_plain(content["network_weights"], file.name)
    return content


def _configuration_name(content: Mapping[str, Any], file: Path) -> str:
    arguments = content.get("init_args")
    name = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if not isinstance(name, str):
        raise CheckpointError(f"expected init_args.configuration in {file.name}, found none; train it again")
    return name
