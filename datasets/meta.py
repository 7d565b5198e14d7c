"""What the JSON of a folder says about it: classes, channels, and nothing that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .base import DatasetError

IGNORE = "ignore"
"""nnU-Net's name of the label that is neither trained on nor scored."""

MEANT = {
    "channels": ("channel", "channels_names", "image_channels"),
    "channel_names": ("channel_name", "channelnames"),
    "modality": ("modalities",),
    "labels": ("label", "label_names", "class_names", "classes", "names"),
    "keep": ("kept", "keep_labels"),
}
"""Keys that are read, and what people write in their place."""


class Classes(NamedTuple):
    """Class names by id, and the id that marks voxels nobody labelled."""

    names: tuple[str, ...]
    ignore: int | None = None


def classes_of(labels: Any, path: Path) -> Classes:
    """Classes from MSD's ``{"0": name}`` or nnU-Net's ``{name: 0}``; nnU-Net's ``ignore`` is the highest id.

    Raises:
        DatasetError: gaps, regions, or fewer than two classes.
    """
    pairs: list[tuple[Any, str]] = []
    if isinstance(labels, dict) and all(isinstance(k, str) and k.isdecimal() for k in labels):
        # A number beside a number says neither which is the id.
        named = all(isinstance(name, str) for name in labels.values())
        pairs = [(int(k), name) for k, name in labels.items()] if named else []
    elif isinstance(labels, dict):
        pairs = [(k, str(name)) for name, k in labels.items()]
    whole = all(isinstance(k, int) and not isinstance(k, bool) for k, _ in pairs)
    if whole and sorted(k for k, _ in pairs) == list(range(len(pairs))):
        names = [name for _, name in sorted(pairs)]
        ignore = names.index(IGNORE) if IGNORE in names else None
        known = names if ignore is None else names[:-1]
        if len(known) >= 2 and ignore in (None, len(known)):
            return Classes(tuple(known), ignore)
    raise DatasetError(
        f'expected "labels" {{name: id}} with ids 0..K without gaps or regions in {path} (ignore, if any, last), '
        f"found {str(labels)[:200]}; convert the labels"
    )


def check_keys(meta: Mapping[str, Any], path: Path) -> None:
    """Refuse keys that were meant to say something and would be passed over: ``channel``, ``Modality``, ``class_names``.

    Raises:
        DatasetError: with the key that is read.
    """
    for key in meta:
        plain = key.lower().replace(" ", "_").replace("-", "_")
        meant = next((known for known, others in MEANT.items() if plain in (known, *others)), key)
        if meant != key and key not in MEANT:
            raise DatasetError(
                f'expected the key "{meant}" in {path}, found {key!r}, which is not read; rename it'
            )


def channels_of(meta: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Channel names from ``channel_names``, ``modality`` or ``channels``; empty when the file does not say.

    Each may be ``{"0": "CT", "1": "PET"}``, ``["CT", "PET"]`` or ``"CT"``.

    Raises:
        DatasetError: numbers with gaps, or something else altogether.
    """
    found = next((meta[key] for key in ("channel_names", "modality", "channels") if meta.get(key)), ())
    if isinstance(found, str):
        return (found,)
    if isinstance(found, dict) and set(map(str, found)) == {str(k) for k in range(len(found))}:
        return tuple(str(found[key]) for key in sorted(found, key=int))
    if isinstance(found, list | tuple):
        return tuple(map(str, found))
    raise DatasetError(
        f'expected "channel_names" (or "modality") {{"0": ..., "1": ...}} without gaps in {path}, found {str(found)[:200]}; '
        "repair it"
    )
