"""The drawing follows from the imports, and what the pages say of files and hooks is true."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("build_architecture")
    sys.modules.pop("build_architecture")
    sys.modules.pop("layout")


def reachable(arrows, room):
    found = {target for source, target in arrows if source == room}
    return found.union(*(reachable(arrows, target) for target in found))


def test_the_committed_drawing_follows_from_the_imports(build):
    drawn = build.draw(build.layout.Tree(ROOT))
    assert build.FILE.read_text(encoding="utf-8") == drawn, f"run `{build.COMMAND}`"


def test_the_drawing_holds_every_room_and_says_every_import(build):
    tree = build.layout.Tree(ROOT)
    graph = build.edges(tree)
    there = {path.name for path in (ROOT / "benchmark").iterdir() if (path / "__init__.py").exists()}
    assert graph.keys() == {f"benchmark.{name}" for name in there | {"evaluation"}} | set(build.layout.LEAVES)
    arrows = build.reduced(graph)
    for room, targets in graph.items():
        below = reachable(arrows, room)
        assert targets <= below
        assert below == reachable([(a, b) for a, several in graph.items() for b in several], room)
    for left_out in arrows:
        assert left_out[1] not in reachable([arrow for arrow in arrows if arrow != left_out], left_out[0])
    drawn = build.draw(tree)
    assert drawn.count("marker-end") == len(arrows)
    names = re.findall(r'font-weight="bold" fill="#222">([\w.]+)/?<', drawn)
    assert sorted(names) == sorted([*there, "evaluation.py", *build.layout.LEAVES])


def test_another_import_is_another_drawing(build, tmp_path):
    for name, text in (("attacks", ""), ("models", "import robustvox.attacks\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    assert build.edges(build.layout.Tree(tmp_path)) == {"attacks": set(), "models": {"attacks"}}
    with_arrow = build.draw(build.layout.Tree(tmp_path))
    (tmp_path / "models" / "__init__.py").write_text("")
    assert with_arrow.count("marker-end") == build.draw(build.layout.Tree(tmp_path)).count("marker-end") + 1
    (tmp_path / "benchmark" / "attic").mkdir(parents=True)
    (tmp_path / "benchmark" / "attic" / "__init__.py").touch()
    with pytest.raises(build.PlaceError, match=r"benchmark\.attic: expected a place in PLACES"):
        build.draw(build.layout.Tree(tmp_path))


def test_the_examples_of_the_script_run(build):
    assert doctest.testmod(build).failed == 0


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_on_the_page_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./])(?:benchmark|attacks|models|datasets|tests|docs|\.ci)/[\w/.]*", text)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_page_says_where_each_kind_of_change_goes():
    rows = re.findall(r"^\| (an? \w+) \| (.+?) \|", PAGE, re.M)
    wanted = ["an attack", "a model", "a dataset", "a metric", "a column", "a check", "a command"]
    assert [what for what, _ in rows][:7] == wanted
    assert all(re.search(r"`(?:benchmark|attacks|models|datasets)/", where) for _, where in rows)


def test_the_rooms_of_the_api_page_are_those_of_the_code(build):
    text = (ROOT / "docs" / "api" / "benchmark.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    # The command line has pages of its own.
    assert set(sections) == set().union(*build.layout.FLOORS) - {"cli"}
    order = [build.floor(f"benchmark.{name}") for name in sections]
    assert order == sorted(order, reverse=True)
    for name, body in sections.items():
        modules = re.findall(r"^::: robustvox\.benchmark\.(\w+)", body, re.M)
        assert modules
        assert set(modules) == {name}


def test_the_hooks_are_the_linters_of_ci():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (.+)$", hooks, re.M)
    for command in ("ruff check", "ruff format --check", "bash .ci/types"):
        assert any(entry.startswith(command) for entry in entries), command
        assert re.search(rf"^{re.escape(command)}", ci, re.M), command
    assert "://" not in hooks
    assert set(re.findall(r"repo: (\S+)", hooks)) == {"local"}
