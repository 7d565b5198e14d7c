"""Reading a MONAI bundle's configuration as data: references and arithmetic, never Python.

In a bundle every text that starts with `$` is Python to be run and every `_target_` a class to be called. Here
a value is what it says, a reference `@name` to another value, or an expression of numbers; all else is refused
with the text that would have run. Only what is asked for is read, so that the rest of a bundle (its imports, its
data loaders) does not matter.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..header import CheckpointError

NAME = r"[A-Za-z_]\w*(?:(?:::|#)\w+)*"
"""What follows `@` or `%`: names or numbers of list items, joined by `::` or `#`."""

SHOWN = 120
"""Characters of a refused text in a message."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds an object.

    Raises:
        CheckpointError: not readable as such, or YAML without PyYAML.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(raw) if path.suffix == ".json" else _yaml(raw.decode("utf-8-sig"), path)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"expected {path.name} as JSON or YAML, found: {error}; correct the file"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"expected an object in {path.name}, found {type(content).__name__}; correct the file"
        )
    return content


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise CheckpointError(
            f"expected PyYAML to read {path.name}, found it not installed; install it or write the file as JSON"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


class Configuration:
    """A bundle's configuration file.

    Args:
        content: as parsed.
        source: name of the file, for messages.

    Example:
        >>> config = Configuration({"patch": [96, 96, 96], "wide": "$@patch::0 * 2"}, "inference.json")
        >>> config.literal("@patch"), config.literal("@wide")
        ([96, 96, 96], 192)
        >>> config.literal("$os.getcwd()")
        Traceback (most recent call last):
        robustvox.models.header.CheckpointError: ...found "$os.getcwd()", which would run as Python...
    """

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        self.content, self.source = content, source

    def get(self, name: str) -> Any:
        """The raw value under a name such as `a::b::0`.

        Raises:
            CheckpointError: there is none.
        """
        value: Any = self.content
        for part in re.split("::|#", name):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise CheckpointError(
                    f"expected a value named {name} in {self.source}, found none; correct the bundle"
                ) from None
        return value

    def literal(self, value: Any, where: str = "value", through: tuple[str, ...] = ()) -> Any:
        """``value`` with references followed and arithmetic done; lists and objects too.

        Args:
            value: raw, from the file.
            where: what it is for, for messages.
            through: references on the way here.

        Raises:
            CheckpointError: a value that would run code or build an object, or references in a circle.
        """
        if isinstance(value, list):
            return [self.literal(item, f"{where}::{i}", through) for i, item in enumerate(value)]
        if isinstance(value, Mapping):
            if "_target_" in value:
                raise self.refusal(f"_target_ {value['_target_']}", where, "would be called")
            return {key: self.literal(item, f"{where}::{key}", through) for key, item in value.items()}
        if not isinstance(value, str):
            return value
        if value.startswith("$"):
            return self._evaluate(value, where, through)
        if re.fullmatch(f"[@%]{NAME}", value):
            return self._follow(value[1:], where, through)
        if value.startswith(("@", "%")):
            raise self.refusal(value, where, "is no reference inside this file")
        return value

    def refusal(self, text: str, where: str, why: str) -> CheckpointError:
        """The error for a value that is not taken, with its text."""
        shown = " ".join(text.split())
        shown = shown[:SHOWN] + ("..." if len(shown) > SHOWN else "")
        return CheckpointError(
            f'expected a plain value, a reference or arithmetic for {where} in {self.source}, found "{shown}", '
            f"which {why}; nothing was run: write the value in its place or bring the model with a factory"
        )

    def _follow(self, name: str, where: str, through: tuple[str, ...]) -> Any:
        if name in through:
            circle = " -> ".join(("", *through[through.index(name) :], name))[4:]
            raise CheckpointError(
                f"expected references with an end in {self.source}, found {circle}; correct it"
            )
        return self.literal(self.get(name), where, (*through, name))

    def _evaluate(self, text: str, where: str, through: tuple[str, ...]) -> Any:
        refused = self.refusal(text, where, "would run as Python")
        names: dict[str, str] = {}

        def stand_in(found: re.Match[str]) -> str:
            names[f"_reference_{len(names)}"] = found[1]
            return f" _reference_{len(names) - 1} "

        if "_reference_" in text:
            raise refused
        try:
            tree = ast.parse(re.sub(f"@({NAME})", stand_in, text[1:]).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise refused from None
        values = {}

        def value_of(node: ast.AST) -> Any:
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
                return node.value
            if isinstance(node, ast.Name) and node.id in names:
                if node.id not in values:
                    values[node.id] = self._follow(names[node.id], where, through)
                return values[node.id]
            if isinstance(node, ast.Tuple | ast.List):
                return [value_of(item) for item in node.elts]
            if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](*numbers(node.operand))
            if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](*numbers(node.left, node.right))
            raise refused

        def numbers(*nodes: ast.AST) -> list[int | float]:
            found = [value_of(node) for node in nodes]
            if not all(isinstance(value, int | float) for value in found):
                raise refused
            return found

        try:
            return value_of(tree)
        except (ArithmeticError, RecursionError):
            raise refused from None
