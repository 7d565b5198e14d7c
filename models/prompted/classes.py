"""Which channel of a network is which class of the data: by name, many to one, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..documents import JSON_BYTES, parse_json, read_bytes
from ..header import CheckpointError

BACKGROUND = "background"

ABSENT = -30.0
"""Logit of every organ, against 0 of the background, where a network does not look."""

_FILLERS = {"and", "the", "of", "gland", "gl"}
_SAME_WORDS = {
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
    "ivc": "inferior vena cava",
    "arota": "aorta",
    "gall bladder": "gallbladder",
    "veins": "vein",
    "lt": "left",
    "rt": "right",
    "femoral head": "head femur",
    "urinary bladder": "bladder",
}
"""Spellings that are in use for the same structure, some of them in published label lists."""


def same_name(name: str) -> frozenset[str]:
    """What is compared of a class name: its words, without order, fillers and spelling variants.

    Example:
        >>> same_name("kidney_right") == same_name("Right Kidney")
        True
        >>> same_name("portal_vein_and_splenic_vein") == same_name("portal and splenic veins")
        True
        >>> same_name("kidney") == same_name("left kidney")
        False
    """
    text = " ".join(re.sub(r"[^a-z0-9]+", " ", name.lower()).split())
    for variant, usual in _SAME_WORDS.items():
        text = re.sub(rf"\b{variant}\b", usual, text)
    return frozenset(text.split()) - _FILLERS


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Channels of a network for every class of the data.

    Several channels of one class are joined by their maximum, and so are the background and all channels that no
    class asks for. The arg-max over classes is then the class of the network's own arg-max, and for independent
    sigmoids an organ wins over the background exactly where its probability is above 0.5.

    Args:
        channels: of each foreground class, in the order of the data's class ids.
        background: channels of the background and of classes the data lacks; empty for independent sigmoids,
            where the background has the logit 0.

    Raises:
        ValueError: a class without a channel, or a channel of two classes.

    Example:
        >>> import torch
        >>> merged = ClassMap(channels=((0, 1),), background=())
        >>> merged(torch.tensor([[[-1.0], [2.0], [5.0]]])).tolist()
        [[[0.0], [2.0]]]
    """

    channels: tuple[tuple[int, ...], ...]
    background: tuple[int, ...]

    def __post_init__(self) -> None:
        flat = [c for group in (*self.channels, self.background) for c in group]
        if not self.channels or not all(self.channels):
            raise ValueError(f"expected a channel for every class, got {self.channels}")
        if len(set(flat)) != len(flat) or any(c < 0 for c in flat):
            raise ValueError(f"expected every channel at most once, got {(*self.channels, self.background)}")

    @property
    def used(self) -> tuple[int, ...]:
        """Channels of the network that are asked for, in the order in which :meth:`narrowed` counts them."""
        return (*self.background, *(c for group in self.channels for c in group))

    def narrowed(self) -> ClassMap:
        """The same map for a network that gives only the channels of :attr:`used`."""
        position = {channel: i for i, channel in enumerate(self.used)}
        return ClassMap(
            channels=tuple(tuple(position[c] for c in group) for group in self.channels),
            background=tuple(position[c] for c in self.background),
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits ``(B, C, *spatial)`` of the network to ``(B, K, *spatial)`` of the data's classes."""
        zero = torch.zeros_like(logits[:, 0])
        background = logits[:, self.background].amax(1) if self.background else zero
        classes = [logits[:, group].amax(1) for group in self.channels]
        return torch.stack([background, *classes], 1)


def match_classes(
    channel_names: Sequence[str],
    class_names: Sequence[str],
    *,
    overlapping: bool,
    name: str,
    mapping: Mapping[str, Sequence[str | int]] | None = None,
) -> ClassMap:
    """The map from a network's channels to the data's classes, by their names.

    Args:
        channel_names: of the network, one per channel.
        class_names: of the data, background first.
        overlapping: independent sigmoids without a background channel.
        name: of the network, for messages.
        mapping: class of the data to names or numbers of channels, for those that names do not tell.

    Raises:
        CheckpointError: a class of the data the network does not know, an ambiguous or doubled name, a mapping
            that names an unknown class or channel.

    Example:
        >>> match_classes(["background", "liver", "spleen"], ["background", "spleen"], overlapping=False, name="net")
        ClassMap(channels=((2,),), background=(0, 1))
    """
    chosen: list[tuple[int, ...]] = []
    given = {same_name(key): value for key, value in (mapping or {}).items()}
    unknown = [key for key in mapping or {} if same_name(key) not in {same_name(n) for n in class_names[1:]}]
    if unknown:
        raise CheckpointError(
            f"expected classes of the data in the map of {name}, found {', '.join(unknown)}; the data has "
            f"{', '.join(class_names[1:])}"
        )
    lost: list[str] = []
    for wanted in class_names[1:]:
        sources = given.get(same_name(wanted), (wanted,))
        found = [_channel(source, channel_names, name) for source in sources]
        lost += [str(s) for s, c in zip(sources, found, strict=True) if c is None]
        chosen.append(tuple(c for c in found if c is not None))
    if lost:
        raise CheckpointError(
            f"expected {name} to know every class of the data, found no {', '.join(lost)} among its "
            f"{len(channel_names)} ({_some(channel_names)}); give map=FILE.json, or data with classes it knows"
        )
    taken = [c for group in chosen for c in group]
    twice = sorted({channel_names[c] for c in taken if taken.count(c) > 1})
    if twice:
        raise CheckpointError(
            f"expected one class of the data for each of {name}, found two for {', '.join(twice)}; correct the map"
        )
    rest = () if overlapping else tuple(c for c in range(len(channel_names)) if c not in taken)
    return ClassMap(channels=tuple(chosen), background=rest)


def _channel(source: str | int, channel_names: Sequence[str], name: str) -> int | None:
    if isinstance(source, int):
        if not 0 <= source < len(channel_names):
            raise CheckpointError(
                f"expected channels 0 to {len(channel_names) - 1} in the map of {name}, found {source}; correct it"
            )
        return source
    hits = [i for i, channel in enumerate(channel_names) if same_name(channel) == same_name(source)]
    if len(hits) > 1:
        raise CheckpointError(
            f"expected one channel called {source!r} in {name}, found {len(hits)}; give its number in map=FILE.json"
        )
    return hits[0] if hits else None


def read_map(path: str | Path) -> dict[str, list[str | int]]:
    """Read ``{"class of the data": ["name of the network", ...]}``.

    Raises:
        CheckpointError: no file, no JSON, or something else in it.
    """
    path = Path(path).expanduser()
    try:
        content: Any = parse_json(read_bytes(path, JSON_BYTES), path.name)
    except CheckpointError as error:
        raise CheckpointError(
            f"expected a JSON map of classes at {path}, found: {error}; correct map="
        ) from error
    plain = isinstance(content, dict) and all(
        isinstance(v, list) and v and all(type(x) in (str, int) for x in v) for v in content.values()
    )
    if not plain:
        raise CheckpointError(
            f'expected {{"class of the data": ["names or numbers of the network"]}} in {path.name}, found '
            "something else; write lists"
        )
    return content


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
