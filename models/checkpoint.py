"""Self-describing checkpoints: one ``.safetensors`` file that knows how to rebuild its network.

Nothing is ever unpickled here: a file that is not safetensors is refused with what it looks like.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .activations import require_forward
from .header import FORMAT, CheckpointError, ModelCard, read_card
from .limits import build_within, require_memory, require_window
from .registry import build_model

BUILDING = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError)
"""What building a network from somebody else's arguments may raise."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network with its card and the sha256 of the file it came from."""

    network: nn.Module
    card: ModelCard
    sha256: str


def save_checkpoint(
    path: str | Path, network: nn.Module, card: ModelCard, dtype: torch.dtype = torch.float16
) -> str:
    """Write weights and card to ``path`` and return the file's sha256.

    Args:
        path: target file; written next to itself and moved, so a crash leaves no half file.
        network: weights to store; integer buffers keep their type.
        card: see :class:`ModelCard`.
        dtype: storage type of floating-point weights. Loading always gives float32.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (t.detach().to(dtype) if t.is_floating_point() else t.detach()).cpu().contiguous().clone()
        for name, t in network.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"format": FORMAT, "card": json.dumps(asdict(card), sort_keys=True)})
    partial.replace(path)
    return file_sha256(path)


def load_checkpoint(
    path: str | Path, architecture: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Rebuild the network a checkpoint describes and load every weight strictly.

    Args:
        path: a file written by :func:`save_checkpoint`.
        architecture: refuse anything but this architecture.
        overrides: arguments of the network over those of the card, for what is no weight (``scan``).

    Raises:
        CheckpointError: not safetensors, no card, another architecture, missing or extra or misshapen weights.

    Example:
        >>> from robustvox.models import load_checkpoint
        >>> load_checkpoint("nowhere.safetensors")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        robustvox.models.errors.CheckpointError: expected a checkpoint at nowhere.safetensors, ...
    """
    path = Path(path)
    card = read_card(path)
    if architecture is not None and card.architecture != architecture:
        raise CheckpointError(
            f"expected a checkpoint of {architecture}, found {card.architecture} in {path.name}; "
            f"run with --model {card.architecture} or give the right file"
        )
    require_memory(path.stat().st_size, f"reading {path.name}")
    require_window(card.roi_size, card.in_channels + card.num_classes, path.name)

    def build() -> nn.Module:
        return build_model(
            card.architecture,
            in_channels=card.in_channels,
            num_classes=card.num_classes,
            roi_size=card.roi_size,
            **{**card.arguments, **(overrides or {})},
        )

    try:
        network = build_within(build, path.name)
    except CheckpointError:
        raise
    except BUILDING as error:
        found = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"expected buildable arguments in {path.name}, found: {found}") from error
    require_forward(network.eval(), in_channels=card.in_channels, roi_size=card.roi_size, what=path.name)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"expected complete weights in {path.name}, found {error}; copy the file again"
        ) from error
    load_strictly(network, tensors, path.name)
    return Checkpoint(network.eval(), card, file_sha256(path))


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def state_sha256(network: nn.Module) -> str:
    """Hex sha256 of a network's weights, the identity of one that came without a file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor):
            # A module's own extra state has no bytes that are the same in every process.
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_plain(tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors that are no plain array of numbers: sparse, quantized, without values, or larger than what is stored.

    Args:
        tensors: by name.
        name: of the file, for the message.

    Raises:
        CheckpointError: with the first of them.
    """
    for key, tensor in tensors.items():
        found = ""
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            found = "a sparse, nested or quantized tensor"
        elif tensor.device.type == "meta":
            found = "a tensor without values"
        elif tensor.is_complex():
            found = "complex numbers"
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            found = f"a shape {tuple(tensor.shape)} of more values than are stored"
        if found:
            raise CheckpointError(
                f"expected plain tensors in {name}, found {found} at {key[:80]!r}; save the dense state_dict of the model"
            )


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Give a network exactly the weights it has names for, or none at all.

    Args:
        network: changed in place; untouched when the weights are refused.
        tensors: one per name of the network's state, cast to its types.
        name: of the file, for the message.

    Raises:
        CheckpointError: missing, extra, misshapen or non-finite weights, or such as were whole numbers, complex or
            quantized where the network has real ones.
    """
    require_plain(tensors, name)
    expected = network.state_dict()
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    misshapen = [
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in sorted(expected.keys() & tensors.keys())
        if tensors[k].shape != expected[k].shape
    ]
    if missing or extra or misshapen:
        found = "; ".join(
            f"{len(items)} {what} ({', '.join(items[:3])}{', ...' if len(items) > 3 else ''})"
            for what, items in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
            if items
        )
        raise CheckpointError(
            f"expected exactly the {len(expected)} weights of the network, found in {name}: {found}"
        )
    other = [k for k, t in tensors.items() if expected[k].is_floating_point() and not t.is_floating_point()]
    if other:
        raise CheckpointError(
            f"expected real weights, found {tensors[other[0]].dtype} in {name}: {', '.join(other[:3])}; save them as "
            "they were trained"
        )
    tensors = {k: t.to(expected[k].dtype) for k, t in tensors.items()}
    bad = [k for k, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise CheckpointError(
            f"expected finite weights, found NaN or infinity in {name}: {', '.join(bad[:3])}"
        )
    network.load_state_dict(tensors, strict=True)
