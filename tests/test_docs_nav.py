"""Every page of the documentation can be reached from its navigation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_navigation_names_every_page_once():
    _, nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")
    named = re.findall(r"(\S+\.md)$", nav, re.M)
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(there)
