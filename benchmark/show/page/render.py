"""Jinja2's part: template, style and script become one file."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .board import Board
from .curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from .matrices import SHADES
from .view import COLUMNS, FILTERS, section

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render_page(boards: Iterable[Board]) -> str:
    """The page of all datasets, in the order given; the same bytes for the same boards."""
    style, early, script = (_asset(name) for name in ("style.css", "early.js", "page.js"))
    return _environment().get_template("page.html.j2").render(
        sections=[section(board) for board in boards],
        columns=COLUMNS,
        filters=FILTERS,
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        # Nothing else may run or apply, and nothing may be fetched: a second wall behind the escaping.
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(early)} {_hash(script)}; base-uri 'none'; form-action 'none'",
        chart={
            **{"width": WIDTH, "height": HEIGHT, "shades": SHADES},
            **{"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        },
    )  # fmt: skip


def readable(page: str) -> str:
    """A page as lines of plain text, one per row of a table, for a difference that a person can read.

    Example:
        >>> readable("<tr><th>unet</th><td>0.60</td></tr>\\n</table>\\n<p>a &lt; b</p>")
        'unet | 0.60\\na < b'
    """
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    body = re.sub(r"</t[hd]>\s*<t[hd]", " | <td", body)
    lines = (html.unescape(re.sub(r"<[^>]*>", " ", line)) for line in body.split("\n"))
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    # What stands between the tags, line breaks included.
    digest = hashlib.sha256(f"\n{text}".encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _printable(value: Any) -> Any:
    """Text from records without control characters, and encodable as UTF-8; everything else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", value)
    return text.encode("utf-8", "replace").decode("utf-8")
