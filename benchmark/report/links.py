"""Files that lie beside a report and belong to it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

_VIEW = re.compile(r"view_(?:(\d{8}-\d{6}-[0-9a-f]{8})_)?(.+)\.html")


def viewers(folder: Path, stem: str = "") -> tuple[tuple[str, str], ...]:
    """Volume viewers beside a report or beside its folder: the case and the address.

    Args:
        folder: of the report.
        stem: of the report's name. ``view_<stem>_<case>.html`` is its own, those of other reports are left out, and
            ``view_<case>.html`` is of nobody's and belongs to all.

    Example:
        >>> viewers(Path("no/such/folder"))
        ()
    """
    found = []
    for place, where in ((Path(folder), "./"), (Path(folder).parent, "../")):
        names = sorted(path.name for path in place.glob("view_*.html") if path.is_file())
        matches = ((match, name) for name in names if (match := _VIEW.fullmatch(name)))
        # Quoted and relative: a name is an address nowhere else, whatever signs it holds.
        found += [
            (m[2], f"{where}{quote(name, errors='replace')}") for m, name in matches if m[1] in (None, stem)
        ]
    return tuple(found)
