"""The leaderboard page: one self-contained HTML file, a pure function of the records and of what lies beside them.

``results/index.html`` opens from the file system and from static hosting and asks the network for nothing. All
numbers stand in the markup, so that it reads without JavaScript; the script adds sorting, filters and
explanations. Everything that came from a record passes Jinja2's autoescape.
"""

from __future__ import annotations

from .board import Board, load_notes, load_sources
from .entries import load_entries
from .pictured import load_pictures
from .render import readable, render_page

__all__ = ["Board", "load_entries", "load_notes", "load_pictures", "load_sources", "readable", "render_page"]
