"""Ways in which a file lies. A mutation is drawn from a seeded generator, so that every input can be made again."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CANARY = "ran.txt"
"""A file that no input may bring about: payloads would write it."""

DEEP = (500, 3_000, 100_000)

NAMES = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", ":bomb: :skull:", "[red]bold[/red]", "[/]", "\u202egnp.exe",
    "\u2066hidden\u2069", "a\nb", "a\r\x1b[2K", "\t=1+1", "\n=1+1", "=cmd|' /C calc'!A0", "-1+1", "@SUM(1)", "...", "..",
    "../../up", "/etc/passwd", "...csv", "nul", "con.txt", "x" * 300, "y" * 5_000, "\u00e9" * 200, "a\x00b", "\ud800",
    "<script>x</script>", "{{ 7*7 }}", "$(touch ran.txt)", "`touch ran.txt`", "%s%n", "\\input{x}", "| a | b |", " ", "",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, math.nan, math.inf, -math.inf, 10**30, -(10**30), 2**31, 2**63, 1e308, "", "0",
    "1", "nan", "x", [], {}, [[]], [{}], {"": ""}, [None], [1, 2, 3], {"0": "a"}, {"a": 0}, "x" * 300, ["x"] * 1000,
)  # fmt: skip

PAYLOADS = (
    f"$__import__('pathlib').Path('{CANARY}').touch()",
    "os:system",
    "pathlib:Path.touch",
    f"os:system:command=touch {CANARY}",
    "$import os",
    "@_target_",
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document, itself first."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:8]):
            yield from places(value, (*path, index))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return value
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return document


MARK = "\x02deep\x02"


def encode(document: Any) -> str:
    return json.dumps(document)


def _nested(rng: random.Random, document: Any) -> str:
    """A value under more brackets than any stack holds."""
    depth, path = rng.choice(DEEP), rng.choice(list(places(document)))
    text = encode(replaced(document, path, MARK))
    deep = "[" * depth + "1" + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
    return text.replace(json.dumps(MARK), deep)


def _retyped(rng: random.Random, document: Any) -> str:
    return encode(replaced(document, rng.choice(list(places(document))), rng.choice(VALUES)))


def _renamed(rng: random.Random, document: Any) -> str:
    """A text becomes a name that terminals, paths or spreadsheets take for something else."""
    texts = [p for p in places(document) if isinstance(_at(document, p), str)] or list(places(document))
    return encode(replaced(document, rng.choice(texts), rng.choice((*NAMES, *PAYLOADS))))


def _rekeyed(rng: random.Random, document: Any) -> str:
    """A key gets another name, or comes twice."""
    holders = [p for p in places(document) if isinstance(_at(document, p), dict) and _at(document, p)]
    if not holders:
        return _retyped(rng, document)
    path = rng.choice(holders)
    content = dict(_at(document, path))
    key = rng.choice(list(content))
    if rng.random() < 0.3:
        twice = json.dumps({key: rng.choice(VALUES)})[1:-1]
        return encode(replaced(document, path, MARK)).replace(
            json.dumps(MARK), "{" + twice + ", " + encode(content)[1:]
        )
    value = content.pop(key)
    if rng.random() < 0.6:
        content[rng.choice((*NAMES, key.upper() if isinstance(key, str) else "k", "-1", "1e9"))] = value
    return encode(replaced(document, path, content))


def _grown(rng: random.Random, document: Any) -> str:
    """A list or object with far more members than anybody writes."""
    holders = [p for p in places(document) if isinstance(_at(document, p), list | dict) and _at(document, p)]
    if not holders:
        return _retyped(rng, document)
    path, number = rng.choice(holders), rng.choice((2_000, 60_000))
    content = _at(document, path)
    if isinstance(content, list):
        grown: Any = [content[0]] * number
    else:
        value = next(iter(content.values()))
        grown = {**content, **{f"k{n}": value for n in range(number)}}
    return encode(replaced(document, path, grown))


def _long(rng: random.Random, document: Any) -> str:
    """A text or number of a million characters."""
    text = encode(replaced(document, rng.choice(list(places(document))), MARK))
    value = json.dumps("x" * 1_000_000) if rng.random() < 0.5 else "9" * rng.choice((5_000, 300_000))
    return text.replace(json.dumps(MARK), value)


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


DOCUMENT: tuple[tuple[Callable[[random.Random, Any], str], int], ...] = (
    (_retyped, 8),
    (_renamed, 5),
    (_rekeyed, 4),
    (_nested, 3),
    (_grown, 1),
    (_long, 1),
)


def mutate_document(rng: random.Random, document: Any) -> tuple[bytes, str]:
    """A JSON document that lies, as bytes, and how."""
    kinds, weights = zip(*DOCUMENT, strict=True)
    how = rng.choices(kinds, weights)[0]
    text = how(rng, document)
    return text.encode("utf-8", "surrogatepass"), how.__name__.lstrip("_")


def mutate_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Flipped bits, lost or repeated or foreign pieces."""
    how = rng.choice(
        ("flip", "flip", "flip", "cut", "drop", "repeat", "noise", "append", "empty", "encoding")
    )
    content, at = bytearray(content), rng.randrange(max(len(content), 1))
    if how == "flip":
        for _ in range(rng.choice((1, 1, 1, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[at:]
    elif how == "drop":
        del content[at : at + rng.randrange(1, 64)]
    elif how == "repeat":
        content[at:at] = content[at : at + rng.randrange(1, 4096)] * rng.randrange(1, 20)
    elif how == "noise":
        content[at : at + 32] = rng.randbytes(32)
    elif how == "append":
        content += rng.choice((b"\0", b"}", b"\n{}\n", rng.randbytes(100)))
    elif how == "empty":
        content = bytearray(
            rng.choice((b"", b"\n", b"\0" * 1000, b"PK\x03\x04", b"\x80\x02", b"{", b"null", b"[]"))
        )
    else:
        content = bytearray(b"\xff\xfe" + bytes(content) if rng.random() < 0.5 else bytes(content)[::-1])
    return bytes(content), how


def mutate_place(rng: random.Random, path: Path) -> str:
    """Something that is no file, or another one, where the file should be."""
    how = rng.choice(("folder", "gone", "zero", "null", "pipe", "dangling", "loop", "random", "unreadable"))
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "null":
        path.symlink_to("/dev/null")
    elif how == "random":
        path.symlink_to("/dev/urandom")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "dangling":
        path.symlink_to("nothing-there")
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "unreadable":
        path.write_bytes(b"x")
        path.chmod(0)
    return f"place-{how}"
