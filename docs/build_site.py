"""Build the documentation site into site/, warnings as errors; --serve shows it while you write.

python -m venv .docs && .docs/bin/pip install -r docs/requirements.txt && .docs/bin/python docs/build_site.py

The code is read, never imported, so neither torch nor robustvox need to be installed.
"""

from __future__ import annotations

import os
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
        return subprocess.call(
            [sys.executable, "-m", "mkdocs", *action],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
