"""Build the documentation site into site/, warnings as errors; --serve shows it while you write.

python -m venv .docs && .docs/bin/pip install -r docs/requirements.txt && .docs/bin/python docs/build_site.py

The code is read, never imported, so neither torch nor robustvox need to be installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("attacks", "models", "datasets", "benchmark")


def main(arguments: list[str]) -> int:
    """Run MkDocs with the four code folders on its path as one package ``robustvox``."""
    action = ["serve"] if "--serve" in arguments else ["build", "--strict", "--quiet"]
    with tempfile.TemporaryDirectory() as path:
        package = Path(path) / "robustvox"
        package.mkdir()
        (package / "__init__.py").touch()
        for folder in FOLDERS:
            (package / folder).symlink_to(ROOT / folder, target_is_directory=True)
        code = subprocess.call(
            [sys.executable, "-m", "mkdocs", *action],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        )
    problems = [] if code or "--serve" in arguments else mistakes(ROOT / "site")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return code or int(bool(problems))


RAW = (
    (re.compile(r":(?:class|func|data|meth|attr|mod|exc|obj|ref|doc):\s*(?:<code>|`)"), "a raw role"),
    (re.compile(r"</code>\]\[robustvox"), "a link to what the API does not document"),
    (re.compile(r'class="arithmatex"|<m[ior]>\\'), "a formula that was not converted"),
    (
        re.compile(r"""<(?:script|link|img|source|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//"""),
        "a request",
    ),
)


def mistakes(site: Path) -> list[str]:
    """Pages that show a raw Sphinx role or LaTeX, or would ask the network for something, a line each.

    Links of the head that name the page itself and nothing to load (canonical, next, previous) are none.
    """
    found = []
    for page in sorted(site.rglob("*.html")):
        text = re.sub(r'<link rel="(?:canonical|next|prev)"[^>]*>', "", page.read_text("utf-8"))
        for pattern, what in RAW:
            if match := pattern.search(text):
                around = text[max(match.start() - 40, 0) : match.end() + 60].replace("\n", " ")
                found.append(f"{page.relative_to(site)}: {what}: ...{around}...")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
