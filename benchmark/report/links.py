"""Files that lie beside a report and belong to it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

_VIEW = re.compile(r"view_(.+)\.html")


def viewers(folder: Path) -> tuple[tuple[str, str], ...]:
    """Volume viewers beside a report, ``view_<case>.html``: the text between and the address, by name.

    Example:
        >>> viewers(Path("no/such/folder"))
        ()
    """
    names = sorted(path.name for path in Path(folder).glob("view_*.html") if path.is_file())
    found = ((match[1], name) for name in names if (match := _VIEW.fullmatch(name)))
    # Quoted and relative: a name is an address nowhere else, whatever signs it holds.
    return tuple((case, f"./{quote(name, errors='replace')}") for case, name in found)
