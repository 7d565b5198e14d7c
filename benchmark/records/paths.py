"""Where records lie: names as safe path components."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from ..specs.spec import CLEAN


def component(name: str) -> str:
    """A name as one safe path component; anything but a plain name gets a hash, so that none collide.

    Example:
        >>> component("swin_unetr"), component("../unet")
        ('swin_unetr', 'unet-41245029')
    """
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", name) and not name.endswith((".", ".jsonl"))
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)
    if plain and not reserved:
        return name
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_") or "name"
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def records_file(protocol: str, surrogate: str, attack: str) -> PurePosixPath:
    """File of a unit's rows, relative to ``results/<dataset>/records``.

    Args:
        protocol: name of the protocol.
        surrogate: name of the attacked model.
        attack: canonical attack spec, ``"none"`` for the clean image.

    Example:
        >>> str(records_file("robustvox-1", "unet", "pgd:eps=8/255"))
        'robustvox-1/unet/pgd.jsonl'
    """
    file = "clean" if attack == CLEAN else component(attack.partition(":")[0])
    return PurePosixPath(component(protocol), component(surrogate), f"{file}.jsonl")
