"""Write the tables of marking.md from the committed rows of the study; nothing is measured here.

python docs/build_marking.py
"""

from __future__ import annotations

import re
from pathlib import Path

from robustvox.benchmark.studies.marking.tables import CASES, markdown, read_cases, summarize

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "marking.md"
ROWS = DOCS.parent / "results" / "hippocampus" / "marking" / CASES
START, END = "<!-- study: python docs/build_marking.py -->", "<!-- end of study -->"


def page(text: str, tables: str) -> str:
    """The page with the tables between its markers, one level of heading below the section."""
    before, found, rest = text.partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"error: expected {START} and {END} in {PAGE.name}, found not both; put them back")
    lower = re.sub(r"^## ", "### ", tables, flags=re.M)
    return f"{before}{START}\n\n{lower}\n{END}{after}"


def main() -> None:
    tables = markdown(summarize(read_cases(ROWS)))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
