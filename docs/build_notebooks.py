"""Run the notebooks of docs/notebooks from top to bottom.

python docs/build_notebooks.py [NAME ...]      # keeps what they show; needs: pip install nbclient ipykernel
python docs/build_notebooks.py --check         # only that every cell runs, as CI does; needs nothing more

What differs from run to run (warnings, metadata of sessions, the name of a report) is taken out.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "notebooks"
STAMP = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


def code_of(path: Path) -> list[str]:
    """The cells of code, in their order."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def check(path: Path) -> None:
    """Run every cell in this process; what a cell raises is raised."""
    os.environ.setdefault("MPLBACKEND", "agg")
    space: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(FOLDER)
    try:
        for number, code in enumerate(code_of(path), start=1):
            exec(compile(code, f"{path.name}, cell {number}", "exec"), space)
    finally:
        os.chdir(before)


def keep(path: Path) -> None:
    """Run a notebook in a kernel and write what it shows into it."""
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell["outputs"] = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(STAMP.sub("DATE-TIME-ID", nbformat.writes(notebook)) + "\n", "utf-8")


def main(arguments: list[str]) -> None:
    named = [FOLDER / f"{name}.ipynb" for name in arguments if name != "--check"]
    for path in named or sorted(FOLDER.glob("*.ipynb")):
        (check if "--check" in arguments else keep)(path)
        sys.stderr.write(f"{path.name}: every cell runs\n")


if __name__ == "__main__":
    main(sys.argv[1:])
