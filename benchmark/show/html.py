"""How HTML is written: one Jinja environment for page and reports, and a policy that lets nothing else run.

Everything that came from a record or a file name passes autoescape and loses its control characters.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..specs.names import printable


@cache  # compiling the page's templates takes longer than filling them in
def environment(templates: Path) -> Environment:
    """Templates of a folder, undefined names refused, text escaped and without control characters."""
    return Environment(
        loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def policy(styles: Iterable[str], scripts: Iterable[str] = ()) -> str:
    """A content security policy: these styles and scripts, pictures inside the file, and no request at all.

    Args:
        styles, scripts: the texts between the tags, without the line breaks next to the tags.

    Example:
        >>> policy(["p {}"]).split("; ")[2:]
        ["style-src 'sha256-UfqFf46tNYFq+0IPcu+C6a9r61kL1KtBvzgRCyy6xgg='", "script-src 'none'", \
"base-uri 'none'", "form-action 'none'"]
    """
    parts = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": " ".join(map(_hash, styles)),
        "script-src": " ".join(map(_hash, scripts)) or "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hash(text: str) -> str:
    # What stands between the tags, line breaks included.
    digest = hashlib.sha256(f"\n{text}".encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _finalize(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value).replace("\t", " ")
