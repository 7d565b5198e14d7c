"""Files that lie beside a report and belong to it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

_VIEW = re.compile(r"view_(.+)\.html")


def viewers(folder: Path) -> tuple[tuple[str, str], ...]:
    """Volume viewers beside a report or beside its folder, ``view_<case>.html``: the text between and the address.

    Example:
        >>> viewers(Path("no/such/folder"))
        ()
    """
    found = []
    for place, where in ((Path(folder), "./"), (Path(folder).parent, "../")):
        names = sorted(path.name for path in place.glob("view_*.html") if path.is_file())
        matches = ((match[1], name) for name in names if (match := _VIEW.fullmatch(name)))
        # Quoted and relative: a name is an address nowhere else, whatever signs it holds.
        found += [(case, f"{where}{quote(name, errors='replace')}") for case, name in matches]
    return tuple(found)
