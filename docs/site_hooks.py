"""What MkDocs does with a page after Markdown: roles of docstrings become links, LaTeX becomes MathML.

MathML is drawn by the browser itself, so a page needs no script, no font and no network for a formula.
"""

from __future__ import annotations

import html
import re
from typing import Any

ROLE = re.compile(r":(?:class|func|data|meth|attr|mod|exc|obj):\s*<code>(~?)\.*([\w.]+)</code>")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<display>.*?)\\\])\s*</\1>',
    re.DOTALL,
)


def with_links(page: str) -> str:
    """Sphinx roles as code that links to the API where it documents the name.

    Example:
        >>> with_links("see :class:<code>~robustvox.attacks.PGD</code>.")
        'see <autoref optional identifier="robustvox.attacks.PGD"><code>PGD</code></autoref>.'
        >>> with_links(":func:<code>check_volume</code> of each")
        '<code>check_volume</code> of each'
    """

    def link(found: re.Match[str]) -> str:
        short, name = found.groups()
        code = f"<code>{name.rpartition('.')[2] if short else name}</code>"
        if not name.startswith("robustvox."):
            return code
        return f'<autoref optional identifier="{name}">{code}</autoref>'

    return ROLE.sub(link, page)


def with_formulas(page: str) -> str:
    """LaTeX that arithmatex has marked, as MathML with its source as annotation for those who copy."""
    from latex2mathml.converter import convert

    def formula(found: re.Match[str]) -> str:
        inline = found["inline"]
        latex = html.unescape(inline if inline is not None else found["display"]).strip()
        shown = convert(latex, display="inline" if inline is not None else "block")
        return shown if inline is not None else f'<div class="formula" tabindex="0">{shown}</div>'

    return FORMULA.sub(formula, page)


def on_page_content(content: str, **_: Any) -> str:
    """MkDocs calls this with the HTML of a page, before links to the API are resolved."""
    return with_formulas(with_links(content))


def on_post_page(output: str, **_: Any) -> str:
    """And this with the whole page: the theme's search is a dialog without a name."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )
