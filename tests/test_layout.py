"""Who may import whom, and that the import root is what the design says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "attacks": {"attacks"},
    "models": {"models"},
    "datasets": {"datasets"},
    "benchmark": {"attacks", "models", "datasets", "benchmark"},
}


def imported(path: Path) -> set[str]:
    """Second part of every absolute ``robustvox.x`` import in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("robustvox.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_know_only_whom_they_may(folder):
    for path in (REPOSITORY / folder).rglob("*.py"):
        assert imported(path) <= MAY_IMPORT[folder], path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops = {alias.name.split(".")[0] for alias in node.names}
                assert not tops & set(MAY_IMPORT), f"{path} imports a folder under its bare name"


def test_no_file_outgrows_its_reader():
    for folder in MAY_IMPORT:
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) < 400, path


def test_no_device_is_assumed_and_nothing_is_unpickled():
    for folder in MAY_IMPORT:
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = path.read_text()
            assert ".cuda()" not in text, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                    assert not names & {"pickle", "dill", "joblib"}, path
