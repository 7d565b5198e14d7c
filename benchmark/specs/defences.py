"""The defences there are, a row each, and how a model's name carries one: ``unet@pgd_at``.

What tables write behind a name where two checkpoints share it, ``unet@1a2b3c4d``, is no defence: none is called by
hexadecimal digits alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .spec import normalize


@dataclass(frozen=True)
class DefenceEntry:
    """What there is to know of a defence before it is built.

    Attributes:
        summary: one line for people.
        cite: keys of the bibliography; none for a control of our own.
        source: its paper; none for a control of our own.
        control: whether it is no defence but what one is compared with.
    """

    summary: str
    cite: tuple[str, ...] = ()
    source: str = ""
    control: bool = False


CATALOG: Mapping[str, DefenceEntry] = {
    "pgd_at": DefenceEntry(
        "adversarial training, half of the windows attacked by PGD or any other attack",
        ("madry2018towards",),
        "Madry et al., arXiv:1706.06083",
    ),
    "trades": DefenceEntry(
        "plain loss, and the divergence of predictions under an attack on them",
        ("zhang2019trades",),
        "Zhang et al., arXiv:1901.08573",
    ),
    "vaft": DefenceEntry(
        "clean and VAFA-attacked windows, and the distance of the logits' spectra",
        ("hanif2023frequency",),
        "Hanif et al., arXiv:2307.07269",
    ),
    "free": DefenceEntry(
        "every batch several times, noise moved by the training's own gradients",
        ("shafahi2019free",),
        "Shafahi et al., arXiv:1904.12843",
    ),
    "adaptive": DefenceEntry(
        "adversarial training with a radius per case that grows while it holds",
        ("ma2022adaptive",),
        "Ma and Liang, arXiv:2206.01736",
    ),
    "noise": DefenceEntry("half of the windows with random signs of the attack's size", control=True),
    "corrupt": DefenceEntry("half of the windows blurred, rescaled or noised as scanners do", control=True),
}

NONE = "natural"
"""What people call training without a defence."""


def split_defence(name: str) -> tuple[str, str]:
    """A model's name without its defence, and the defence; an empty word where it carries none.

    Example:
        >>> split_defence("unet@pgd_at"), split_defence("UNet@PGD-AT:size=small")
        (('unet', 'pgd_at'), ('UNet:size=small', 'pgd_at'))
        >>> split_defence("unet@1a2b3c4d"), split_defence("unet@pgd_at@1a2b3c4d")
        (('unet@1a2b3c4d', ''), ('unet@1a2b3c4d', 'pgd_at'))
    """
    known = {normalize(key): key for key in CATALOG}
    found = re.fullmatch(r"([^@:]+)@([^@:]+)(.*)", name, re.DOTALL)
    if found is None or normalize(found[2]) not in known:
        return name, ""
    return found[1] + found[3], known[normalize(found[2])]


def defended(name: str, defence: str) -> str:
    """A name that carries a defence; parameters stay behind it.

    Example:
        >>> defended("unet:size=small", "pgd_at"), defended("unet", "")
        ('unet@pgd_at:size=small', 'unet')
    """
    head, colon, rest = name.partition(":")
    return f"{head}@{defence}{colon}{rest}" if defence else name


def split_hash(name: str) -> tuple[str, str]:
    """``NAME@HASH`` of a table in its two parts; the hash is empty where none is written.

    Example:
        >>> split_hash("unet@pgd_at@1a2b3c4d"), split_hash("unet@pgd_at"), split_hash("unet@1a2b")
        (('unet@pgd_at', '1a2b3c4d'), ('unet@pgd_at', ''), ('unet', '1a2b'))
    """
    head, at, tail = name.rpartition("@")
    return (head, tail.lower()) if at and re.fullmatch(r"[0-9a-fA-F]{1,64}", tail) else (name, "")
