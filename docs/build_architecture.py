"""Draw who imports whom into docs/figures/architecture.svg, from the imports of the code as it is.

python docs/build_architecture.py

Boxes are the leaves and the rooms of ``benchmark/``, on the floors of tests/layout.py, each with the first words of
its own docstring. An arrow leads from a room to one that it imports; where a longer way of arrows says the same, the
direct one is left out. Same code, same bytes.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
try:
    import layout
finally:
    sys.path.remove(str(ROOT / "tests"))

FILE = ROOT / "docs" / "figures" / "architecture.svg"
COMMAND = "python docs/build_architecture.py"

PLACES = {
    **{"benchmark.cli": 2.0},
    **{"benchmark.evaluation": 0.0, "benchmark.report": 1.5, "benchmark.studies": 2.5},
    **{"benchmark.harness": 3.0},
    **{"benchmark.show": 0.0, "benchmark.training": 2.0, "benchmark.plan": 3.0},
    **{"benchmark.craft": 1.5, "benchmark.records": 2.5},
    **{"benchmark.metrics": 0.0, "benchmark.specs": 3.0},
    **{"datasets": 0.5, "models": 1.5, "attacks": 2.5},
}
"""Where a box stands from left to right, in widths of a box; what floor it is on follows from the law."""

_STEP_X, _STEP_Y, _WIDTH, _HEIGHT, _MARGIN, _SIDE = 184, 88, 168, 56, 12, 26
_COLORS = {"leaf": ("#e3ecdf", "#6b8a5e"), "room": ("#e4e9f2", "#5f7396")}


class PlaceError(ValueError):
    """A room cannot be drawn; the message says what to write where."""


def edges(tree: layout.Tree) -> dict[str, set[str]]:
    """Room -> the rooms and leaves that it imports, without the doors of ``benchmark/``."""
    found: dict[str, set[str]] = {layout.room(module): set() for module in tree.files}
    for source, targets in tree.edges.items():
        found[layout.room(source)] |= {layout.room(target) for target in targets} - {layout.room(source)}
    doors = {"benchmark", *(f"benchmark.{name}" for name in layout.DOORS)}
    return {room: targets - doors for room, targets in found.items() if room not in doors}


def reduced(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way replaces.

    Example:
        >>> reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
        [('a', 'b'), ('b', 'c')]
    """
    kept = []
    for source, targets in graph.items():
        for target in targets:
            seen: set[str] = set()
            left = list(targets - {target})
            while left:
                room = left.pop()
                if room not in seen:
                    seen.add(room)
                    left += graph.get(room, ())
            if target not in seen:
                kept.append((source, target))
    return sorted(kept)


def floor(room: str) -> int:
    """0 for the leaves, then the floors of ``benchmark/`` upwards."""
    name = room.removeprefix("benchmark.")
    return next((at for at, names in enumerate(layout.FLOORS, 1) if name in names), 0)


def words(tree: layout.Tree, room: str) -> str:
    """What a room is: the beginning of its docstring, up to the first stop."""
    text = (ast.get_docstring(tree.parsed[room]) or "").partition("\n")[0].replace("`", "")
    text = re.sub(r"^\w+: (\w)", lambda m: m[1].upper(), text)  # "Datasets: named splits ..."
    return re.split(r"[.;:,](?:\s|$)", text)[0]


def corner(room: str) -> tuple[float, float]:
    """Left upper corner of a box, in pixels."""
    if room not in PLACES:
        raise PlaceError(
            f"{room}: expected a place in PLACES of docs/build_architecture.py, found none; give it one"
        )
    return _SIDE + _MARGIN + PLACES[room] * _STEP_X, _MARGIN + (len(layout.FLOORS) - floor(room)) * _STEP_Y


def draw(tree: layout.Tree) -> str:
    """The drawing as SVG.

    Raises:
        PlaceError: if a room has no place.
    """
    graph = edges(tree)
    width = int(_SIDE + 2 * _MARGIN + max(PLACES.values()) * _STEP_X + _WIDTH)
    height = 2 * _MARGIN + len(layout.FLOORS) * _STEP_Y + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<!-- Written by `{COMMAND}` from the imports of the code. -->",
        "<title>The leaves and the rooms of benchmark on their floors, with arrows to what they import</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8 L8 4 L0 7.2 z" fill="#555"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    for at in range(len(layout.FLOORS) + 1):
        y = _MARGIN + (len(layout.FLOORS) - at) * _STEP_Y
        lines.append(f'<text x="{_MARGIN}" y="{y + 33}" font-size="13" fill="#999">{at + 1}</text>')
        if at:
            lines.append(
                f'<path d="M{_MARGIN} {y + _HEIGHT + 16} H{width - _MARGIN}" stroke="#e6e6e6" stroke-width="1"/>'
            )
    lines += [_arrow(source, target, graph) for source, target in reduced(graph)]
    for room in sorted(graph, key=lambda name: (-floor(name), PLACES.get(name, 0))):
        lines += _box(tree, room)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(source: str, target: str, graph: Mapping[str, set[str]]) -> str:
    """From the lower edge of one box to the upper edge of another, each arrow at a place of its own."""
    arrows = reduced(graph)
    x0 = _port(source, target, [b for a, b in arrows if a == source])
    x1 = _port(target, source, [a for a, b in arrows if b == target])
    y0, y1 = corner(source)[1] + _HEIGHT, corner(target)[1] - 2
    bend = (y1 - y0) * 0.45
    return (
        f'<path d="M{x0:.0f} {y0:.0f} C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}" '
        'fill="none" stroke="#555" stroke-width="1.2" marker-end="url(#tip)"/>'
    )


def _port(room: str, other: str, others: list[str]) -> float:
    order = sorted(others, key=lambda name: (PLACES.get(name, 0.0), name))
    return corner(room)[0] + _WIDTH * (order.index(other) + 1) / (len(order) + 1)


def _box(tree: layout.Tree, room: str) -> Iterator[str]:
    x, y = corner(room)
    fill, edge = _COLORS["room" if room.startswith("benchmark.") else "leaf"]
    name = room.removeprefix("benchmark.")
    shown = f"{name}.py" if tree.files[room].name != "__init__.py" else f"{name}/"
    yield f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="{fill}" stroke="{edge}"/>'
    yield (
        f'<text x="{x + 9:.0f}" y="{y + 18:.0f}" font-size="14" font-weight="bold" fill="#222">{escape(shown)}</text>'
    )
    told = textwrap.wrap(words(tree, room), 26, max_lines=2, placeholder=" ...")
    for at, line in enumerate(told):
        yield f'<text x="{x + 9:.0f}" y="{y + 33 + 13 * at:.0f}" font-size="11" fill="#444">{escape(line)}</text>'


def main() -> None:
    """Write the drawing."""
    FILE.write_text(draw(layout.Tree(ROOT)), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        main()
    except PlaceError as problem:
        sys.exit(f"error: {problem}")
