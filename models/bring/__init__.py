"""Bring your own model: what a path holds is recognized by its content, then read without running any of it.

Five formats: a MONAI bundle folder, a trained-model folder of nnU-Net v2, a checkpoint (`.pt`) of the BMVC'24 or VAFA
repositories, a TorchScript archive, and our own `.safetensors`. A file is never unpickled beyond tensors, a configuration never
evaluated, and weights load strictly or not at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..header import CheckpointError
from .brought import BroughtModel
from .folds import Folds
from .recognize import FORMATS, recognize

__all__ = ["FORMATS", "BroughtModel", "Folds", "open_model", "recognize"]


def open_model(
    path: str | Path,
    *,
    in_channels: int,
    num_classes: int,
    roi_size: Sequence[int],
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    overlap: float = 0.5,
    mode: str = "gaussian",
    sw_batch_size: int | str = 1,
    folds: Folds | None = None,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
) -> BroughtModel:
    """Read the model that a folder or file holds; nothing in it is run.

    Args:
        path: folder or file in one of ``FORMATS``.
        in_channels: image channels C of the data; a model for another number is refused.
        num_classes: logit channels K the data needs, background included; another number is refused.
        roi_size: window in voxels, used where the format does not say one.
        architecture: key of ``MODELS``, needed for a published checkpoint, which does not name its own.
        arguments: of the format: ``fold``, ``checkpoint`` and ``window`` of an nnU-Net folder, ``size`` and overrides of a
            published checkpoint's architecture, ``legacy_merging`` of a Swin-UNETR there or in a bundle,
            ``output`` and ``roi_size`` of a TorchScript archive.
        overlap: of the windows, for formats that predict whole volumes themselves.
        mode: of the windows' weights, likewise.
        sw_batch_size: windows per forward, likewise.
        folds: which of the data's cases the folds of an nnU-Net folder were trained on, where that is known.
        class_names: of the data, background first, where a model that has the same ones in another order is refused.
        channel_names: of the data, likewise.

    Raises:
        CheckpointError: not a known format, or one that cannot be used; one line with expected, found, remedy.
    """
    path, given = Path(path), dict(arguments or {})
    kind = recognize(path)
    classes: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    named = {"class_names": tuple(class_names), "channel_names": tuple(channel_names)}
    windows: dict[str, Any] = {"overlap": overlap, "mode": mode, "sw_batch_size": sw_batch_size}
    if kind == "nnunet":
        _refuse_parameters(path, given, ("fold", "checkpoint", "window"))
        chosen = {key: value if key == "window" else str(value) for key, value in given.items()}
        return _reader("nnunet")(path, **classes, **named, **windows, **chosen, folds=folds)
    if kind == "bundle":
        _refuse_parameters(path, given, ("legacy_merging",))
        return _reader("bundle")(path, **classes, **named, roi_size=tuple(roi_size), **given)
    if kind == "torchscript":
        _refuse_parameters(path, given, ("output", "roi_size"))
        return _reader("torchscript")(path, **classes, **{"roi_size": tuple(roi_size), **given})
    if kind == "published":
        return _reader("published")(path, **classes, architecture=architecture, arguments=given)
    _refuse_parameters(path, given, ())
    return _reader("own")(path, **classes, **named, architecture=architecture)


def _reader(module: str) -> Callable[..., BroughtModel]:
    return importlib.import_module(f".{module}", __name__).load


def _refuse_parameters(path: Path, given: Mapping[str, Any], known: Sequence[str]) -> None:
    extra = [key for key in given if key not in known]
    if extra:
        raise CheckpointError(
            f"expected parameters of {path.name} among {', '.join(known) or 'none'}, got {', '.join(extra)}; "
            "drop them"
        )
