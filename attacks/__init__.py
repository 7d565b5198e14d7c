"""Adversarial attacks on volumes: torch and the standard library only.

    from robustvox.attacks import PGD

    adversarial = PGD(eps=8 / 255, steps=20)(model, images, labels)

`CATALOG` says what there is without importing torch; `ATTACKS` and the classes
are loaded on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .catalog import CATALOG as CATALOG
from .catalog import AttackEntry as AttackEntry

if TYPE_CHECKING:
    from .apgd import APGD as APGD
    from .base import Attack as Attack
    from .base import BoundAttack as BoundAttack
    from .cospgd import CosPGD as CosPGD
    from .ensemble import Ensemble as Ensemble
    from .fgsm import BIM as BIM
    from .fgsm import FGSM as FGSM
    from .mifgsm import MIFGSM as MIFGSM
    from .noise import GN as GN
    from .noise import Uniform as Uniform
    from .pgd import PGD as PGD
    from .sa2 import SA2 as SA2
    from .segpgd import SegPGD as SegPGD
    from .square import Square as Square
    from .task import StepInfo as StepInfo
    from .vafa import VAFA as VAFA
    from .vafa2d import VAFA2D as VAFA2D

    ATTACKS: dict[str, type[Attack]]

_HOME = {entry.kind: entry.module for entry in CATALOG.values() if not entry.compatibility}
_HOME |= {"Attack": "base", "BoundAttack": "base", "StepInfo": "task"}

__all__ = [
    "APGD",
    "ATTACKS",
    "BIM",
    "CATALOG",
    "FGSM",
    "GN",
    "MIFGSM",
    "PGD",
    "SA2",
    "VAFA",
    "VAFA2D",
    "Attack",
    "AttackEntry",
    "BoundAttack",
    "CosPGD",
    "Ensemble",
    "SegPGD",
    "Square",
    "StepInfo",
    "Uniform",
    "load_attack_class",
]


def load_attack_class(key: str) -> type[Attack]:
    """The class of a row of the catalogue, those for comparison with published tables included.

    Raises:
        KeyError: no such row.
    """
    return _load(CATALOG[key])


def _load(entry: AttackEntry) -> Any:
    return getattr(importlib.import_module(f".{entry.module}", __name__), entry.kind)


def __getattr__(name: str) -> Any:
    if name == "ATTACKS":
        value: Any = {key: _load(entry) for key, entry in CATALOG.items() if not entry.compatibility}
    elif name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
