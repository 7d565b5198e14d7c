"""The identity of one scored thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

import numpy as np

from robustvox.datasets import Volume


class RecordsError(RuntimeError):
    """The records cannot be read or written; the message names the file and what to do."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Identity of one scored thing. Changing any field makes it another unit, which is computed anew.

    Args:
        dataset: registry key of the dataset.
        case: case id.
        attack: canonical attack spec, ``"none"`` for the clean image.
        surrogate: display name of the attacked model.
        surrogate_sha256: hash of its checkpoint.
        target: display name of the scored model.
        target_sha256: hash of its checkpoint.
        protocol: name of the protocol.
        seed: seed of the attack.
        data_sha256: fingerprint of the case as loaded, ``""`` where unknown.
    """

    dataset: str
    case: str
    attack: str
    surrogate: str
    surrogate_sha256: str
    target: str
    target_sha256: str
    protocol: str
    seed: int
    data_sha256: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value, wanted = getattr(self, field.name), int if field.name == "seed" else str
            if type(value) is not wanted:
                raise ValueError(
                    f"Unit.{field.name}: expected {wanted.__name__}, got {value!r} ({type(value).__name__}); "
                    f"convert it with {wanted.__name__}(...)"
                )

    @property
    def key(self) -> str:
        """First 16 hex digits of the SHA-256 of all fields as canonical JSON."""
        return digest(asdict(self))

    @property
    def slot(self) -> tuple[str | int, ...]:
        """Everything but the data's fingerprint: of two units in one slot, the later one counts."""
        return astuple(self)[:-1]


def digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def data_fingerprint(volume: Volume) -> str:
    """Hex sha256 of what is attacked and scored: image, label, spacing, and what nobody labelled."""
    digest = hashlib.sha256(repr((volume.image.shape, volume.spacing_mm)).encode())
    digest.update(np.ascontiguousarray(volume.image).tobytes())
    digest.update(np.ascontiguousarray(volume.label.astype(np.int64)).tobytes())
    if volume.ignore is not None:
        digest.update(np.packbits(volume.ignore).tobytes())
    return digest.hexdigest()
