"""Jinja2's part: template, style and script become one file."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from ..html import environment, policy
from .board import Board
from .curves import BOTTOM, LEFT, MARKERS, RIGHT, WIDTH
from .matrices import SHADES
from .view import COLUMNS, FILTERS, section

TEMPLATES = Path(__file__).resolve().parent / "templates"


def render_page(boards: Iterable[Board]) -> str:
    """The page of all datasets, the one with the most ranked models first; the same bytes for the same boards."""
    style, early, script = (_asset(name) for name in ("style.css", "early.js", "page.js"))
    sections = sorted(map(section, boards), key=lambda found: -found["ranked"])  # stable: else as given
    return environment(TEMPLATES).get_template("page.html.j2").render(
        sections=sections,
        columns=COLUMNS,
        filters=FILTERS,
        style=Markup(style),
        early=Markup(early),
        script=Markup(script),
        # Nothing else may run or apply, and nothing may be fetched: a second wall behind the escaping.
        policy=policy([style], [early, script]),
        chart={
            **{"width": WIDTH, "shades": SHADES, "markers": MARKERS},
            **{"left": LEFT, "right": WIDTH - RIGHT, "below": BOTTOM},
        },
    )  # fmt: skip


def readable(page: str) -> str:
    """A page as lines of plain text, one per row of a table, for a difference that a person can read.

    Example:
        >>> readable("<tr><th>unet</th><td>0.60</td></tr>\\n</table>\\n<p>a &lt; b</p>")
        'unet | 0.60\\na < b'
    """
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    body = re.sub(r"</?span>", "", body)  # parts of one number or name
    body = re.sub(r"</t[hd]>\s*<t[hd]", " | <td", body)
    lines = (html.unescape(re.sub(r"<[^>]*>", " ", line)) for line in body.split("\n"))
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
