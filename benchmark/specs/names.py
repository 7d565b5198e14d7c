"""Names of somebody else, made safe: for a terminal, and for a path. Markup is ``show/tables/markup``'s.

A name of a dataset, case, model or class comes from files that anybody can write. It may hold codes that move the
cursor or recolor the screen, marks that turn the direction of writing around, halves of characters, or be the name of
another folder.
"""

from __future__ import annotations

import hashlib
import re

_CONTROL = re.compile(
    "["
    "\x00-\x08\x0a-\x1f\x7f-\x9f"  # control codes of one and of two sets, escape among them
    "\u2028\u2029"  # line and paragraph
    "\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # direction marks, and characters without width
    "]+"
)
LONGEST = 120
"""Bytes of a name that is taken as it is; systems take 255, with an ending and a hash added."""


def printable(text: object) -> str:
    """Text for a terminal, on one line: without control codes, direction marks and line breaks, encodable as UTF-8.

    Example:
        >>> printable("\\x1b[31mred\\x1b[0m\\n\\u202egnp.exe")
        ' [31mred [0m gnp.exe'
    """
    return _CONTROL.sub(" ", str(text)).encode("utf-8", "replace").decode("utf-8")


def component(name: str) -> str:
    """A name as one safe path component; anything but a plain name gets a hash, so that none collide.

    Capitals are not plain: where file systems pay no heed to case, ``MyNet`` and ``mynet`` would be one file.

    Example:
        >>> component("swin_unetr"), component("../unet")
        ('swin_unetr', 'unet-41245029')
    """
    plain = re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,79}", name) and not name.endswith((".", ".jsonl"))
    if plain and not is_reserved(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_") or "name"
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def folder_name(name: str) -> str:
    """The name of a dataset as a folder: as it is where every system can have it, else :func:`component`.

    Example:
        >>> folder_name("my scans"), folder_name("..")
        ('my scans', 'name-5ec1f7e7')
    """
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return component(name)
    kept = name == printable(name) and not re.search(r'[/\\:*?"<>|]', name) and name.strip(". ") == name
    return name if kept and 0 < size <= LONGEST and not is_reserved(name) else component(name)


def is_reserved(name: str) -> bool:
    """Names that Windows gives to devices."""
    return re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name) is not None
