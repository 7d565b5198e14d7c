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
    from .annealed import Annealed as Annealed
    from .apgd import APGD as APGD
    from .base import Attack as Attack
    from .base import BoundAttack as BoundAttack
    from .base import Sharing as Sharing
    from .base import ball as ball
    from .base import frozen as frozen
    from .cospgd import CosPGD as CosPGD
    from .ensemble import Ensemble as Ensemble
    from .ensemble import Ensemble2 as Ensemble2
    from .examples import tiny_case as tiny_case
    from .fgsm import BIM as BIM
    from .fgsm import FGSM as FGSM
    from .interop import TorchAttack as TorchAttack
    from .interop import as_torchattacks as as_torchattacks
    from .keyed_mark import KeyedMark as KeyedMark
    from .keys import Key as Key
    from .mifgsm import MIFGSM as MIFGSM
    from .noise import GN as GN
    from .noise import Uniform as Uniform
    from .pgd import PGD as PGD
    from .sa2 import SA2 as SA2
    from .segpgd import SegPGD as SegPGD
    from .smooth import Smooth as Smooth
    from .smooth import SmoothNoise as SmoothNoise
    from .square import Square as Square
    from .surrogates import Surrogates as Surrogates
    from .task import BestIterate as BestIterate
    from .task import StepInfo as StepInfo
    from .task import Task as Task
    from .task import input_gradient as input_gradient
    from .vafa import VAFA as VAFA
    from .vafa2d import VAFA2D as VAFA2D

    ATTACKS: dict[str, type[Attack]]

_HOME = {entry.kind: entry.module for entry in CATALOG.values() if not entry.compatibility}
_HOME |= {
    "Attack": "base",
    "BoundAttack": "base",
    "Sharing": "base",
    "ball": "base",
    "frozen": "base",
    "Surrogates": "surrogates",
    "StepInfo": "task",
    "tiny_case": "examples",
    "Key": "keys",
}
_HOME |= {"BestIterate": "task", "input_gradient": "task", "Task": "task"}
_HOME |= {"TorchAttack": "interop", "as_torchattacks": "interop"}

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
    "Annealed",
    "Attack",
    "AttackEntry",
    "BestIterate",
    "BoundAttack",
    "CosPGD",
    "Ensemble",
    "Ensemble2",
    "Key",
    "KeyedMark",
    "SegPGD",
    "Smooth",
    "SmoothNoise",
    "Square",
    "StepInfo",
    "Surrogates",
    "Task",
    "TorchAttack",
    "Uniform",
    "as_torchattacks",
    "ball",
    "frozen",
    "input_gradient",
    "load_attack_class",
    "tiny_case",
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
