"""The header of a checkpoint, read without torch: what ``list`` shows, and the first thing loading checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "robustvox-checkpoint-1"
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format; a larger claim is not a safetensors file."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says expected, found, remedy."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the header of a checkpoint says about it.

    Args:
        architecture: key of ``MODELS``.
        arguments: builder arguments besides the ones below (``size`` and overrides).
        in_channels: image channels.
        class_names: one per logit channel, background first.
        roi_size: window in voxels.
        dataset: name of the training dataset; its split rule and licence are in ``data``.
        window: how intensities were mapped to [0, 1].
        recipe: optimizer, schedule, steps, augmentation.
        seed: seed of the training run.
        validation_dice: mean foreground Dice on the validation split, in [0, 1].
        code_version: version of robustvox that trained it.
        validation_interval: 95% bootstrap interval of it over the cases.
        validation_cases: how many cases that was.
        parameters: number of trainable values.
        flops: operations of one forward on one window, see :mod:`robustvox.models.complexity`.
        source: paper of the architecture.
    """

    architecture: str
    arguments: Mapping[str, Any]
    in_channels: int
    class_names: tuple[str, ...]
    roi_size: tuple[int, ...]
    dataset: str
    window: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    validation_dice: float | None = None
    code_version: str = "unknown"
    validation_interval: tuple[float, float] | None = None
    validation_cases: int | None = None
    parameters: int | None = None
    flops: int | None = None
    source: str = "unknown"

    @property
    def num_classes(self) -> int:
        """Logit channels, background included."""
        return len(self.class_names)

    @property
    def defence(self) -> str:
        """Name of what it was trained with against attacks, the first word of the recipe's spec; empty for nothing."""
        name = str(self.recipe.get("adversarial", "none")).partition(":")[0]
        return "" if name == "none" else name


def read_card(path: str | Path) -> ModelCard:
    """Read the card of a checkpoint; nothing else in the file is touched, nothing is unpickled.

    Raises:
        CheckpointError: no file, not safetensors (said what it looks like), or no card of ours in it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"expected a checkpoint at {path}, found no file; train one or correct --checkpoint"
        )
    metadata = _metadata(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f'expected format "{FORMAT}" in the header of {path.name}, found {metadata.get("format")!r}; '
            "save it with robustvox.models.save_checkpoint"
        )
    try:
        fields = json.loads(metadata["card"])
        fields["class_names"] = tuple(fields["class_names"])
        fields["roi_size"] = tuple(fields["roi_size"])
        if fields.get("validation_interval") is not None:
            low, high = fields["validation_interval"]
            fields["validation_interval"] = (float(low), float(high))
        return ModelCard(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected a complete model card in {path.name}, found {error!r}; save it again"
        ) from error


def _metadata(path: Path) -> Mapping[str, str]:
    with path.open("rb") as file:
        head = file.read(8)
        size = int.from_bytes(head, "little")
        text = file.read(size) if len(head) == 8 and size <= MAX_HEADER_BYTES else b""
    try:
        header = json.loads(text)
        return header.get("__metadata__", {})
    except (ValueError, AttributeError):
        raise CheckpointError(
            f"expected a .safetensors checkpoint, found {_kind(head)} in {path.name}; "
            "convert it to safetensors, pickles are never opened"
        ) from None


def _kind(head: bytes) -> str:
    if head.startswith(b"PK\x03\x04"):
        return "a PyTorch zip archive (pickle)"
    if head[:1] == b"\x80":
        return "a pickle"
    return "something else" if head else "an empty file"
