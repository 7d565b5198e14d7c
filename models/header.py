"""The header of a checkpoint, read without torch: what ``list`` shows, and the first thing loading checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .documents import parse_json
from .errors import CheckpointError

__all__ = ["FORMAT", "CheckpointError", "ModelCard", "parse_card", "read_card"]

FORMAT = "robustvox-checkpoint-1"
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format; a larger claim is not a safetensors file."""


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
        channel_names: of the images it was trained on; () where the data had none.
    """

    # No text is taken for a number, and no key for another one.
    __pydantic_config__: ClassVar[dict[str, object]] = {
        "strict": True,
        "extra": "forbid",
        "allow_inf_nan": False,
    }

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
    channel_names: tuple[str, ...] = ()

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
    return parse_card(metadata.get("card"), path.name)


def parse_card(text: object, where: str) -> ModelCard:
    """The card that a header holds, every field of its type and in its range.

    Raises:
        CheckpointError: no card, or one that cannot be one.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(text, str):
        raise CheckpointError(f"expected a complete model card in {where}, found none; save it again")
    parse_json(text, f"the model card of {where}")
    try:
        card = TypeAdapter(ModelCard).validate_json(text)
    except (ValidationError, UnicodeEncodeError) as error:
        first = (
            error.errors(include_url=False)[0]
            if isinstance(error, ValidationError)
            else {"loc": (), "msg": str(error)}
        )
        place = ".".join(map(str, first["loc"]))[:120] or "the card"
        raise CheckpointError(
            f"expected a complete model card in {where}, found {place}: {first['msg']}; save it again"
        ) from error
    dice = [v for v in (card.validation_dice, *(card.validation_interval or ())) if v is not None]
    checks = (
        ("at least two class_names, each once", len(set(card.class_names)) == len(card.class_names) >= 2),
        ("1 to 1000 in_channels", 1 <= card.in_channels <= 1000),
        ("2 or 3 sides of roi_size, each 1 to 4096", _are_sides(card.roi_size)),
        ("a validation_dice in 0..1", all(0 <= value <= 1 for value in dice)),
    )
    wrong = next((what for what, good in checks if not good), "")
    if wrong:
        raise CheckpointError(
            f"expected {wrong} in the model card of {where}, found something else; save it again"
        )
    return card


def _are_sides(roi_size: tuple[int, ...]) -> bool:
    return len(roi_size) in (2, 3) and all(1 <= side <= 4096 for side in roi_size)


def _metadata(path: Path) -> Mapping[str, str]:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = int.from_bytes(head, "little")
            text = file.read(size) if len(head) == 8 and size <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise CheckpointError(
            f"expected a readable {path.name}, found: {error.strerror}; copy it again"
        ) from error
    try:
        metadata = parse_json(text, path.name).get("__metadata__", {})
        if isinstance(metadata, dict):
            return metadata
        raise ValueError("no metadata")
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
