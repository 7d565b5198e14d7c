"""The law of the four packages, as functions over a folder: who may import whom, and how large things may get.

    python tests/layout.py [FOLDER]

prints what breaks the law, one line each, and exits 1. `tests/test_layout.py` runs it on the repository and shows
that every rule catches a planted violation; `docs/build_architecture.py` draws the same imports.

What counts as an import: every `import` and `from` statement, absolute or relative, at the top of a file, inside a
function, or under ``TYPE_CHECKING`` (who names a type knows its file), and ``importlib.import_module``. Where the
argument of that is computed, as in the faces that load on first access, every string of the file that names one of
our modules counts. A name taken from a face counts for the file from which the face has it as well. That Python
runs the ``__init__.py`` above a module does not count: else no face could import a file of its own room.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = "robustvox"
LEAVES = ("attacks", "datasets", "models")
TOPS = (*LEAVES, "benchmark")

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"specs", "metrics"}),
    frozenset({"craft", "records"}),
    frozenset({"plan", "training", "show"}),
    frozenset({"harness"}),
    frozenset({"report", "studies", "evaluation"}),
    frozenset({"cli"}),
)
"""The rooms of ``benchmark/`` from the ground up: a room imports lower floors only. All of them stand on the leaves."""

DOORS = ("__init__", "__main__")
"""Files of ``benchmark/`` above all floors: they import anything, and nobody in the packages imports them."""

NEVER: dict[str, frozenset[str]] = {
    "benchmark.specs": frozenset({"attacks", "datasets", "models", "torch"}),
    "benchmark.metrics": frozenset({"attacks", "datasets", "models"}),
    "benchmark.records": frozenset({"attacks", "models"}),
    "benchmark.show": frozenset(
        {"attacks", "datasets", "models", "torch", "benchmark.plan", "benchmark.craft", "benchmark.harness"}
    ),
}
"""What a room never imports, whatever stands lower."""

CATALOGUES = {"benchmark.show": frozenset({"attacks", "models"})}
"""Faces from which a room may all the same take what loads nothing: names, families, budgets."""

ONLY = {"attacks": frozenset({"torch"})}
"""All that a package imports beside itself and the standard library."""

ON_REQUEST = {"attacks.interop_export": frozenset({"torchattacks"})}
"""Packages that one file imports once the user asks for them by name."""

MOST_LINES = 400  # of a file
MOST_BODY = 60  # lines of a function after its decorators, signature and docstring
MOST_FILES = 3  # directly in benchmark/, py.typed aside
MOST_FLOORS = 7  # with the one of the leaves


@dataclass(frozen=True, order=True)
class Import:
    """A file names a module.

    Attributes:
        source: the file as a module without the name of the package, ``benchmark.show.labels``.
        target: a module of ours in the same form, or the top name of another package.
        line: line in the file.
        name: what is taken from the module; empty for the module itself.
        ours: whether the target is one of ours.
        relative: whether it is written with dots.
        late: whether loading the file does not run it: inside a function, for a type, or by computed name.
    """

    source: str
    target: str
    line: int
    name: str = ""
    ours: bool = True
    relative: bool = False
    late: bool = False


class Tree:
    """The Python files of the four packages below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, Path] = {}
        for top in TOPS:
            for path in sorted((root / top).rglob("*.py")):
                *folders, name = path.relative_to(root).with_suffix("").parts
                self.files[".".join(folders if name == "__init__" else (*folders, name))] = path
        self.parsed = {
            module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.files.items()
        }

    def place(self, module: str, line: int | None = None) -> str:
        """A file as people write it."""
        path = self.files[module].relative_to(self.root).as_posix()
        return path if line is None else f"{path}:{line}"

    @cached_property
    def written(self) -> dict[str, list[Import]]:
        """File -> its imports as they are written."""
        return {module: sorted(set(self._read(module))) for module in self.files}

    @cached_property
    def imports(self) -> list[Import]:
        """All imports; a name taken from a face is an import of the file behind it too."""
        behind = {
            (module, one.name): one
            for module, several in self.written.items()
            for one in several
            if one.name and one.ours and self._is_face(module)
        }
        result = set()
        for one in (one for several in self.written.values() for one in several):
            result.add(one)
            target, passed = one.target, {one.source}
            while target not in passed and (target, one.name) in behind:
                passed.add(target)
                target = behind[target, one.name].target
                result.add(Import(one.source, target, one.line, one.name))
        return sorted(result)

    @cached_property
    def edges(self) -> dict[str, set[str]]:
        """File -> the files of ours that it imports."""
        edges: dict[str, set[str]] = {module: set() for module in self.files}
        for one in self.imports:
            if one.ours and one.target in self.files and one.target != one.source:
                edges[one.source].add(one.target)
        return edges

    def _is_face(self, module: str) -> bool:
        return self.files[module].name == "__init__.py"

    def _read(self, module: str) -> Iterator[Import]:
        computed = False
        for node, late in _nodes(self.parsed[module]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield self._import(module, alias.name, node.lineno, late=late)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                for alias in node.names:
                    yield self._import(module, base, node.lineno, alias.name, late=late)
            elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
                name = node.args[0] if node.args else None
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    yield self._import(module, name.value, node.lineno, late=late)
                else:
                    computed = True
        if computed:
            yield from self._named_in_text(module)

    def _import(self, module: str, written: str, line: int, name: str = "", *, late: bool) -> Import:
        """What ``from <written> import <name>`` means in a file; without a name ``import <written>``."""
        target, level = written.lstrip("."), len(written) - len(written.lstrip("."))
        if level:
            folder = module.split(".") if self._is_face(module) else module.split(".")[:-1]
            target = ".".join([*folder[: len(folder) - level + 1], *filter(None, [target])])
        elif target == ROOT or target.startswith(f"{ROOT}."):
            target = target[len(ROOT) + 1 :]
        else:
            return Import(module, target.split(".")[0], line, name, ours=False, late=late)
        inner = f"{target}.{name}".strip(".")
        if name and inner in self.files:
            target, name = inner, ""
        return Import(module, target, line, name, relative=level > 0, late=late)

    def _named_in_text(self, module: str) -> Iterator[Import]:
        for node in ast.walk(self.parsed[module]):
            text = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(text, str) or not text.strip(".").replace(".", "").isidentifier():
                continue
            text = text.rstrip(".")  # the beginning of an f-string
            for written in (text,) if text.startswith(".") else (text, f".{text}"):
                one = self._import(module, written, node.lineno, late=True)
                if one.ours and one.target in self.files and one.target != module:
                    yield one


def _nodes(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes of a file, each with whether loading the file leaves it alone."""
    for child in ast.iter_child_nodes(node):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
        inner = late or typing or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inner
        yield from _nodes(child, inner)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def room(module: str) -> str:
    """Room of ``benchmark/`` or leaf in which a module lives: ``benchmark.show``, ``attacks``."""
    top, *rest = module.split(".")
    return ".".join([top, *rest[:1]]) if top == "benchmark" else top


def _within(module: str, names: Collection[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def floors(tree: Tree) -> Iterator[str]:
    """A room imports lower floors only; every room has a floor; nobody imports a door."""
    height = {f"benchmark.{name}": at for at, names in enumerate(FLOORS, 2) for name in names}
    height |= dict.fromkeys(LEAVES, 1)
    height |= dict.fromkeys(["benchmark", *(f"benchmark.{name}" for name in DOORS)], len(FLOORS) + 2)
    for module in tree.files:
        if room(module) not in height:
            yield f"{tree.place(module)}: {room(module)} has no floor; give it one in FLOORS of tests/layout.py"
    for one in tree.imports:
        source, target = room(one.source), room(one.target)
        if not one.ours or source == target or source not in height:
            continue
        if height.get(target, len(FLOORS) + 2) >= height[source] and source not in LEAVES:
            yield (
                f"{tree.place(one.source, one.line)}: {source} (floor {height[source]}) imports {one.target} "
                f"(floor {height.get(target, 'unknown')}); a room imports lower floors only"
            )


def leaves(tree: Tree) -> Iterator[str]:
    """The leaves know nothing of each other nor of ``benchmark``; ``attacks`` needs torch and nothing else."""
    for one in tree.imports:
        leaf = room(one.source)
        if leaf not in LEAVES:
            continue
        if one.ours and room(one.target) != leaf:
            yield f"{tree.place(one.source, one.line)}: {leaf} imports {one.target or ROOT}; leaves know only themselves"
        allowed = ONLY.get(leaf, frozenset()) | ON_REQUEST.get(one.source, frozenset())
        if not one.ours and leaf in ONLY and one.target not in allowed | sys.stdlib_module_names:
            yield (
                f"{tree.place(one.source, one.line)}: {leaf} imports {one.target}; "
                f"it may import {', '.join(sorted(allowed))} and the standard library"
            )


def never(tree: Tree) -> Iterator[str]:
    """What the table ``NEVER`` forbids to a room."""
    for one in tree.imports:
        home = room(one.source)
        if home not in NEVER or not _within(one.target, NEVER[home]):
            continue
        if not (one.ours and _is_catalogue(tree, one, CATALOGUES.get(home, frozenset()))):
            yield f"{tree.place(one.source, one.line)}: {home} never imports {one.target}"


def _is_catalogue(tree: Tree, one: Import, faces: frozenset[str]) -> bool:
    """Whether a name of a face loads nothing: neither the file behind it nor what that loads needs a package."""
    if one.target in faces:
        return bool(one.name)
    if room(one.target) not in faces:
        return False
    reached: set[str] = set()
    left = [one.target]
    while left:
        module = left.pop()
        if module in reached or module not in tree.files:
            continue
        reached.add(module)
        loaded = [other for other in tree.written[module] if not other.late]
        if any(not other.ours and other.target not in sys.stdlib_module_names for other in loaded):
            return False
        left += [other.target for other in loaded if other.ours]
    return True


def circles(tree: Tree) -> Iterator[str]:
    """No file imports itself by way of others, in any of the four packages."""
    for group in _tangles(tree.edges):
        yield "files import each other in a circle: " + " -> ".join(
            tree.place(module) for module in _circle(tree.edges, group)
        )


def _tangles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected groups of more than one file."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        reached, left = set(), list(edges[start])
        while left:
            module = left.pop()
            if module not in reached:
                reached.add(module)
                left += edges.get(module, ())
        reach[start] = reached
    groups: list[set[str]] = []
    for start in sorted(edges):
        if start in reach[start] and not any(start in group for group in groups):
            groups.append({other for other in reach[start] if start in reach.get(other, ())})
    return groups


def _circle(edges: dict[str, set[str]], group: set[str]) -> list[str]:
    """A shortest way through a group from its first file back to it."""
    start = min(group)
    ways, seen = [[start]], set()
    for way in ways:
        for module in sorted(edges[way[-1]] & group - seen):
            if module == start:
                return [*way, start]
            seen.add(module)
            ways.append([*way, module])
    raise ValueError(f"expected a circle through {start}, found none in {sorted(group)}")


def style(tree: Tree) -> Iterator[str]:
    """Inside a package relatively, between packages absolutely, and never by a folder's bare name."""
    for one in tree.imports:
        place, same = tree.place(one.source, one.line), one.source.split(".")[0] == one.target.split(".")[0]
        if not one.ours and one.target in TOPS:
            yield f"{place}: imports {one.target} by its bare name; write {ROOT}.{one.target}"
        elif one.source == "benchmark.__main__":
            continue  # in the clone it runs under the bare name, where no relative import reaches the package
        elif one.ours and one in tree.written[one.source] and one.relative != same:
            yield f"{place}: imports {one.target} {'relatively' if one.relative else 'absolutely'}"


def long_files(tree: Tree) -> Iterator[str]:
    """No file outgrows its reader."""
    for module, path in tree.files.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{tree.place(module)}: {lines} lines; at most {MOST_LINES}"


def long_functions(tree: Tree) -> Iterator[str]:
    """A function fits a screen: lines from the first statement after the docstring to the last, blank ones too."""
    for module in tree.files:
        for node in ast.walk(tree.parsed[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > MOST_BODY:
                    yield f"{tree.place(module, node.lineno)}: {node.name} has {lines} lines; at most {MOST_BODY}"


def loose_files(tree: Tree) -> Iterator[str]:
    """Beside its rooms ``benchmark/`` holds next to nothing."""
    found = [path.name for path in sorted((tree.root / "benchmark").glob("*")) if path.is_file()]
    found = [name for name in found if name != "py.typed"]
    if len(found) > MOST_FILES:
        yield f"benchmark: {len(found)} files beside the rooms ({', '.join(found)}); at most {MOST_FILES}"


def tower(tree: Tree) -> Iterator[str]:
    """The longest way down through the rooms, as they are imported and not as they are declared."""
    heights = storeys(tree)
    top = max(heights, key=heights.__getitem__, default="")
    if heights.get(top, 0) > MOST_FLOORS:
        yield f"{top} stands on floor {heights[top]}; at most {MOST_FLOORS}"


def storeys(tree: Tree) -> dict[str, int]:
    """Room -> the number of rooms on the longest way down from it; rooms in a circle share one floor."""
    doors = {"benchmark", *(f"benchmark.{name}" for name in DOORS)}
    below: dict[str, set[str]] = {room(module): set() for module in tree.files if room(module) not in doors}
    for source, targets in tree.edges.items():
        if room(source) in below:
            below[room(source)] |= {room(target) for target in targets} - doors - {room(source)}
    heights = dict.fromkeys(below, 1)
    for _ in below:
        for name, lower in below.items():
            heights[name] = min(len(below), max([1, *(heights[other] + 1 for other in lower)]))
    return heights


RULES: tuple[Callable[[Tree], Iterator[str]], ...] = (
    floors,
    leaves,
    never,
    circles,
    style,
    long_files,
    long_functions,
    loose_files,
    tower,
)


def violations(root: Path) -> list[str]:
    """What breaks the law below a folder, one line each."""
    tree = Tree(root)
    return [line for rule in RULES for line in rule(tree)]


if __name__ == "__main__":
    broken = violations(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    sys.stdout.writelines(f"{line}\n" for line in broken)
    sys.exit(bool(broken))
