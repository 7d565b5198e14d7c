"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODULES = sorted(
    "robustvox." + ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("attacks", "models", "datasets", "benchmark")
    for path in (REPOSITORY / folder).rglob("*.py")
    if path.name != "__main__.py"
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert results.failed == 0


def test_there_are_examples():
    found = sum(
        len(t.examples) for m in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(m))
    )
    assert found > 60
