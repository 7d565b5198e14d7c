"""Weights of somebody else's file: read without running anything in it, loaded strictly or not at all."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checkpoint import load_strictly, require_plain
from ..errors import ARCHIVE_FAILURES
from ..header import CheckpointError
from ..limits import build_within, require_memory

WRAPPERS = ("model_state_dict", "state_dict", "model", "network", "net")
"""Where checkpoints keep the weights among epoch, optimizer and scheduler."""

SAFE_TORCH = (2, 6)
"""Before this version `weights_only=True` could be made to run code (CVE-2025-32434)."""

SCALARS = frozenset({"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})

Build = Callable[[int, int], nn.Module]
"""A network for (image channels, classes)."""


class _Dtype:
    """Stands in for a pickled ``numpy.dtype``: only its code is kept, numpy's own reader is never called."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        del state


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Stands in for numpy's scalar constructor, for plain numbers alone."""
    if dtype.code not in SCALARS:
        raise ValueError(f"numpy scalar of type {dtype.code}")
    return np.frombuffer(data, np.dtype(dtype.code), count=1)[0].item()


# Training scripts save the best score as a numpy scalar; numpy 2 moved the constructor.
ALLOWED: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_Dtype, "numpy.dtype"),
]


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name, without wrapper and without the prefix of a parallel training.

    Args:
        path: `.safetensors`, or a PyTorch checkpoint of tensors and numbers.

    Raises:
        CheckpointError: an unreadable or damaged file, one that holds more than tensors and numbers (says what
            reading it would have run), or one without weights.
    """
    require_memory(path.stat().st_size, f"reading {path.name}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"expected weights by name in {path.name}, found {type(content).__name__}; save model.state_dict()"
        )
    states = (_as_state(value) for value in (content, *(content.get(key) for key in WRAPPERS)))
    weights = next((state for state in states if state is not None), None)
    if weights is None:
        raise CheckpointError(
            f"expected weights by name in {path.name}, alone or under {', '.join(WRAPPERS)}, found the keys "
            f"{', '.join(map(str, list(content)[:5])) or 'none'}; save model.state_dict()"
        )
    require_plain(weights, path.name)
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return weights


def _as_state(content: Any) -> dict[str, Tensor] | None:
    """``content`` where it is nothing but tensors by name."""
    if not isinstance(content, Mapping) or not content:
        return None
    named = all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    return dict(content) if named else None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected complete weights in {path.name}, found {error}; copy it again"
        ) from error


def read_checkpoint(path: Path) -> Any:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise CheckpointError(
            f"expected torch {'.'.join(map(str, SAFE_TORCH))} or newer to read {path.name}, found "
            f"{torch.__version__}, whose reader can be made to run code; update torch or convert to safetensors"
        )
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            # Of pickles and kinds of tensors that torch does not know; what matters of them is said below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged or hostile file may fail in any way
        text = str(error)
        refused = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"([\w.]+\.[\w]+) (?:was|is) not", text)
        if refused:
            raise CheckpointError(
                f"expected tensors and numbers in {path.name}, found {refused[1]}, which reading the file would "
                "run; nothing was run: save model.state_dict() alone"
            ) from None
        first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        if first.isdigit() or first.startswith("Weights only load failed"):
            # The number of an instruction, or advice to read the file unsafely.
            first = "a file of another kind"
        raise CheckpointError(
            f"expected a complete PyTorch checkpoint of tensors and numbers in {path.name}, found: {first[:200]}; "
            "copy the file again, or save model.state_dict() alone"
        ) from None


def _check_archive(path: Path) -> None:
    """Compare every member of a zip archive with its checksum, which PyTorch does not do, and bound what it unpacks to.

    Raises:
        CheckpointError: a member that is not what was saved, or an archive that needs too much memory.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            require_memory(sum(info.file_size for info in archive.infolist()), f"reading {path.name}")
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except ARCHIVE_FAILURES as error:
        damaged = f"its directory ({' '.join(str(error).split())[:100]})"
    if damaged is not None:
        raise CheckpointError(
            f"expected a complete PyTorch checkpoint in {path.name}, found {damaged} to be damaged; copy the file again"
        )


def load_network(
    build: Build, state: Mapping[str, Tensor], *, in_channels: int, num_classes: int, name: str
) -> nn.Module:
    """A network built for the data, with every weight from ``state``.

    Args:
        build: makes a network for other numbers of channels and classes too, to explain a mismatch.
        state: weights by name.
        in_channels: image channels of the data.
        num_classes: classes of the data.
        name: of the file, for messages.

    Raises:
        CheckpointError: anything but exactly the network's weights; where they are those of a network for other
            channels or classes, says which.
    """
    network = build_within(lambda: build(in_channels, num_classes), name)
    own = network.state_dict()
    # UNETR has norms without a use since MONAI 1.4, which older checkpoints lack; they change no logit.
    unused = {key: tensor for key, tensor in own.items() if ".norm_cross_attn." in key}
    if not unused.keys() & state.keys():
        state = {**unused, **state}
    try:
        load_strictly(network, state, name)
    except CheckpointError as error:
        other = _meant_for(build, state, own, in_channels, num_classes)
        if other is None:
            raise
        raise CheckpointError(
            f"expected weights for {in_channels} image channel(s) and {num_classes} classes, found them for "
            f"{other[0]} and {other[1]} in {name}; give the dataset it was trained on"
        ) from error
    return network.eval()


def _meant_for(
    build: Build, state: Mapping[str, Tensor], own: Mapping[str, Tensor], in_channels: int, num_classes: int
) -> tuple[int, int] | None:
    """The channels and classes whose network has the shapes of ``state``; None if no such network has.

    Sides grow linearly with either number, so one more of each tells the slope of every side.
    """
    grown = build(in_channels + 1, num_classes).state_dict(), build(in_channels, num_classes + 1).state_dict()
    if any(other.keys() != own.keys() for other in (state, *grown)):
        return None
    counts = [in_channels, num_classes]
    for key, tensor in state.items():
        if tensor.ndim != own[key].ndim:
            return None
        for axis, side in enumerate(own[key].shape):
            slopes = [other[key].shape[axis] - side for other in grown]
            for which in (0, 1):
                if slopes[which] and not slopes[1 - which]:
                    base = (in_channels, num_classes)[which]
                    counts[which] = base + (tensor.shape[axis] - side) // slopes[which]
    if counts == [in_channels, num_classes] or counts[0] < 1 or counts[1] < 2:
        return None
    fitting = build_within(lambda: build(*counts), "weights for other channels").state_dict()
    fits = all(fitting[key].shape == tensor.shape for key, tensor in state.items())
    return (counts[0], counts[1]) if fits else None
