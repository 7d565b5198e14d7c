"""Adversarial attacks on volumes: torch and the standard library only.

    from robustvox.attacks import PGD

    adversarial = PGD(eps=8 / 255, steps=20)(model, images, labels)

`CATALOG` says what there is without importing torch; `ATTACKS` and the classes
are loaded on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .apgd import APGD as APGD
    from .base import Attack as Attack
    from .base import BoundAttack as BoundAttack
    from .cospgd import CosPGD as CosPGD
    from .ensemble import Ensemble as Ensemble
    from .fgsm import BIM as BIM
    from .fgsm import FGSM as FGSM
    from .keyed_mark import KeyedMark as KeyedMark
    from .keys import Key as Key
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

#: key -> (submodule, class name, one line for humans). Reading it costs no import.
CATALOG: dict[str, tuple[str, str, str]] = {
    "gn": ("noise", "GN", "Gaussian noise, the control without any knowledge of the model"),
    "uniform": ("noise", "Uniform", "uniform or corner noise inside the L-inf ball, the fair control"),
    "fgsm": ("fgsm", "FGSM", "one signed gradient step to the edge of the L-inf ball"),
    "bim": ("fgsm", "BIM", "iterated FGSM from the clean volume"),
    "pgd": ("pgd", "PGD", "projected gradient ascent from a random start, with restarts"),
    "mifgsm": ("mifgsm", "MIFGSM", "BIM along the accumulated gradient, meant to transfer"),
    "segpgd": ("segpgd", "SegPGD", "PGD on cross entropy that turns from right voxels to wrong ones"),
    "cospgd": ("cospgd", "CosPGD", "PGD on cross entropy weighted per voxel by cosine alignment"),
    "apgd": ("apgd", "APGD", "PGD with momentum and self-halving steps, eight losses, shrinking radius"),
    "square": ("square", "Square", "gradient-free random search, the probe for masked gradients"),
    "vafa": ("vafa", "VAFA", "frequency attack through learned 3D DCT quantization tables"),
    "vafa2d": ("vafa2d", "VAFA2D", "VAFA with a 2D DCT in every slice"),
    "sa2": ("sa2", "SA2", "frequency attack that scales the coefficients of chosen DCT bands"),
    "keyed_mark": ("keyed_mark", "KeyedMark", "watermark that misleads models and that a key removes again"),
    "ensemble": ("ensemble", "Ensemble", "the frozen standard: the worst of five attacks per volume"),
}

_HOME = {name: module for module, name, _ in CATALOG.values()}
_HOME |= {"Attack": "base", "BoundAttack": "base", "StepInfo": "task", "Key": "keys"}

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
    "BoundAttack",
    "CosPGD",
    "Ensemble",
    "Key",
    "KeyedMark",
    "SegPGD",
    "Square",
    "StepInfo",
    "Uniform",
]


def __getattr__(name: str) -> Any:
    if name == "ATTACKS":
        value: Any = {key: __getattr__(entry[1]) for key, entry in CATALOG.items()}
    elif name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
