"""Write one page per attack, and their index, from the docstrings of the registry.

python docs/build_attacks.py

The docstring is the only place where an attack is described. A docstring that lacks a section of the house form
is refused by name, so an attack cannot be registered without documentation. Same code, same bytes.
"""

from __future__ import annotations

import difflib
import doctest
import inspect
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from formulas import display

from robustvox.attacks import ATTACKS, CATALOG, Attack
from robustvox.attacks.losses import LOSSES, MIN_CLASSES
from robustvox.benchmark.plan.attacks import attack_spec
from robustvox.benchmark.specs.spec import format_value

FOLDER = Path(__file__).resolve().parent / "attacks"
COMMAND = "python docs/build_attacks.py"
SECTIONS = ("Source", "Differs from the source", "Args", "Shape", "Returns", "Raises", "Example")
_PROBE = 0.25  # a radius that no default has


class DocstringError(ValueError):
    """A docstring is not in the house form; the message names the class and the section."""


@dataclass(frozen=True)
class Description:
    """A class docstring, taken apart.

    Attributes:
        text: what the attack does, as paragraphs; a displayed formula keeps its lines and indentation.
        sections: text of the sections other than Args and Example, one entry per point.
        args: meaning of every hyper-parameter.
        examples: the doctest.
    """

    text: list[str]
    sections: dict[str, list[str]]
    args: dict[str, str]
    examples: list[doctest.Example]


def describe(cls: type[Any]) -> Description:
    """Read the docstring of an attack.

    Raises:
        DocstringError: if a section is missing, empty or given twice, if Args and the dataclass fields differ,
            or if the text has no formula.
    """
    parameters = [f.name for f in fields(cls) if f.init]
    head, bodies = _split(cls)
    for name in SECTIONS:
        if not bodies.get(name, "").strip() and not (name == "Args" and not parameters):
            raise DocstringError(f"{cls.__name__}: section {name!r} is missing or empty in the docstring")
    if not head:
        raise DocstringError(f"{cls.__name__}: section 'text' is missing: say first what the attack does")
    text = [p if p[0] == " " else " ".join(p.split()) for p in re.split(r"\n\s*\n", head)]
    if not any(p[0] == " " or formulas(p) for p in text):
        raise DocstringError(
            f"{cls.__name__}: section 'formula' is missing: the text has nothing like x' = x + ..."
        )
    args = _entries(bodies.get("Args", ""))
    if set(args) != set(parameters):
        wrong = ", ".join(sorted(set(args) ^ set(parameters)))
        raise DocstringError(f"{cls.__name__}: section 'Args' and the fields of the class differ in {wrong}")
    examples = doctest.DocTestParser().get_examples(inspect.cleandoc(bodies["Example"]))
    if not examples:
        raise DocstringError(f"{cls.__name__}: section 'Example' has no line that starts with >>>")
    sections = {name: _points(bodies[name]) for name in SECTIONS if name not in ("Args", "Example")}
    return Description(text, sections, args, examples)


def _split(cls: type[Any]) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the sections by name."""
    head: list[str] = []
    bodies: dict[str, list[str]] = {}
    lines = head
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        found = re.match(rf"({'|'.join(SECTIONS)}):(?: +(.*))?$", line)
        if found is None:
            lines.append(line)
            continue
        name, first = found.groups()
        if name in bodies:
            raise DocstringError(f"{cls.__name__}: section {name!r} is given twice in the docstring")
        lines = bodies[name] = [f"    {first}"] if first else []
    return "\n".join(head).strip("\n"), {name: "\n".join(body) for name, body in bodies.items()}


def _entries(body: str) -> dict[str, str]:
    """``name: text`` entries with deeper continuation lines."""
    entries: dict[str, str] = {}
    for item in re.split(r"\n(?=    \w)", body):
        name, _, text = item.partition(":")
        if item.strip():
            entries[name.strip()] = " ".join(text.split())
    return entries


def _points(body: str) -> list[str]:
    """The statements of a section: split at semicolons outside parentheses."""
    text = " ".join(body.split())
    parts = re.split(r";\s+(?![^()]*\))", text)
    return [part[0].upper() + part[1:] if re.match(r"[a-z]+,? ", part) else part for part in parts]


# --- formulas in running text ---------------------------------------------------------------------

_RELATIONS = {"=", "<-", "~", "<=", ">=", "<", ">", "!="}
_OPERATORS = {"+", "-", "*", "/", "+-"}
_WORDS = {"eps", "alpha", "eta", "radius", "grad", "sign", "max", "min", "argmin", "argmax", "log"}
_OPEN, _CLOSE = "([{", ")]}"


def formulas(text: str) -> list[tuple[int, int]]:
    """Where formulas stand in a paragraph: terms around a relation such as ``=``, brackets kept whole.

    Example:
        >>> text = "Moves every voxel: x' = clamp(x + eps * u, 0, 1) with u ~ U(-1, 1)."
        >>> [text[start:end] for start, end in formulas(text)]
        ["x' = clamp(x + eps * u, 0, 1)", 'u ~ U(-1, 1)']
    """
    tokens = list(re.finditer(r"`[^`]*`|[^\s`]+", text))
    words = [token.group() for token in tokens]
    spans: list[tuple[int, int]] = []
    for at in range(1, len(tokens) - 1):
        before, after = words[at - 1], words[at + 1]
        if words[at] not in _RELATIONS or before[-1] in ",;:.`" or after[0] == "`":
            continue
        if spans and tokens[at].start() < spans[-1][1]:
            continue
        start, end = _left(tokens, words, at), _right(text, tokens, words, at)
        spans.append((max(start, spans[-1][1] if spans else 0), end))
    return spans


def _left(tokens: list[re.Match[str]], words: list[str], at: int) -> int:
    first, balance = at - 1, _balance(words[at - 1])
    while first > 0:
        previous = words[first - 1]
        inside = balance < 0 or previous in _OPERATORS or words[first] in _OPERATORS
        if not inside and (previous[-1] in ",;:.`" or not _is_term(previous)):
            break
        first -= 1
        balance += _balance(previous)
    return tokens[first].start() + max(balance, 0)


def _right(text: str, tokens: list[re.Match[str]], words: list[str], at: int) -> int:
    depth = 0
    for index in range(at + 1, len(tokens)):
        for offset, character in enumerate(words[index]):
            depth += (character in _OPEN) - (character in _CLOSE)
            if depth < 0:
                return tokens[index].start() + offset
        end = tokens[index].end()
        if depth == 0 and words[index][-1] in ",;:.":
            return end - 1
        following = words[index + 1] if index + 1 < len(words) else "`"
        joined = words[index] in _RELATIONS | _OPERATORS or following in _RELATIONS | _OPERATORS
        if depth == 0 and not joined and not _is_term(following):
            return end
    return len(text)


def _balance(word: str) -> int:
    return sum(word.count(c) for c in _OPEN) - sum(word.count(c) for c in _CLOSE)


def _is_term(word: str) -> bool:
    """Whether a word beside a formula belongs to it: a symbol, a call or a number, not prose."""
    core = word.strip(",;:.()")
    if core in _WORDS or (len(core) == 1 and core.isalpha() and core not in "aAI"):
        return True
    return bool(re.search(r"[_^{}|']|\w\(|^\d", word)) and "`" not in word


_LINKS = (
    (re.compile(r"arXiv (\d{4}\.\d{4,5})"), r"[arXiv \1](https://arxiv.org/abs/\1)"),
    (re.compile(r"([\w-]+/[\w.-]+) @([0-9a-f]{7,40})\b"), r"[\1 @\2](https://github.com/\1/tree/\2)"),
)
_CODE = re.compile(
    r"\([^()`]*\*[a-z]\w*[^()`]*\)"  # a shape
    r"|(?<![\w`])[A-Za-z_]\w*\((?:[^()`]|\([^()`]*\)){2,}\)"  # a call
    r"|(?<![\w`])[A-Za-z]\w*_(?:\w+|\{[^}`]*\})'?"  # a name with an index
)


def markup(text: str) -> str:
    """Markdown of a docstring sentence: formulas, calls and names as code, papers and classes as links."""
    spans = [(m.start(), m.end(), m.group()) for m in re.finditer(r"`[^`]*`", text)]
    spans = [(start, end, _reference(code)) for start, end, code in spans]
    for pattern, link in _LINKS:
        spans += [(m.start(), m.end(), m.expand(link)) for m in pattern.finditer(text)]
    codes = formulas(text) + [m.span() for m in _CODE.finditer(text)]
    for start, end in codes:
        if all(end <= s or start >= e for s, e, _ in spans):
            spans.append((start, end, f"`{text[start:end]}`"))
    result, position = "", 0
    for start, end, shown in sorted(spans):
        result += _escape(text[position:start]) + shown
        position = end
    return result + _escape(text[position:])


def _reference(code: str) -> str:
    keys = {cls.__name__: key for key, cls in ATTACKS.items()}
    name = code.strip("`")
    if name in keys:
        return f"[{code}]({keys[name]}.md)"
    return f"[{code}](index.md#losses)" if name == "losses.LOSSES" else code


def _escape(text: str) -> str:
    # Entities, as not every Markdown takes a backslash before an angle bracket.
    return re.sub(r"([*_])", r"\\\1", text).replace("<", "&lt;").replace("|", "&#124;")


# --- pages ----------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """File name -> Markdown of every page."""
    result = {f"{key}.md": attack_page(key, cls, CATALOG[key].summary) for key, cls in ATTACKS.items()}
    return {"index.md": index_page(), **result}


def attack_page(key: str, cls: type[Attack], summary: str) -> str:
    """The page of one attack."""
    told, attack = describe(cls), cls()
    spec = shlex.quote(attack_spec(key, attack))
    costs = [s for p in told.text if p[0] != " " for s in _sentences(p) if _COST.search(s)]
    follows = "yes, given as `targets`" if cls.takes_targets else "none: giving some is an error"
    lines = [
        f"<!-- Written by `{COMMAND}` from the docstring of {cls.__module__}.{cls.__name__}: edit that. -->",
        f"# {cls.__name__}",
        f"{summary[0].upper()}{summary[1:]}.",
        f"| at a glance | |\n| --- | --- |\n| name | `{key}` |\n| class | `robustvox.attacks.{cls.__name__}` |\n"
        f"| L-inf budget | {budget(cls)} |\n| targets | {follows} |"
        + (f"\n| cost | {' '.join(map(markup, costs))} |" if costs else ""),
        "On the command line, with every default written out:",
        f"```bash\npython -m benchmark --model unet --attack {spec}\n```",
        "## What it does",
        *_told(key, told.text),
        "## Hyper-parameters",
        _parameter_table(cls, attack, told.args),
        "## Source",
        _bullets(told.sections["Source"]),
        "## What differs from the source",
        _bullets(told.sections["Differs from the source"]),
        "## Shapes, result, errors",
        "\n".join(
            f"- **{name}**: {markup('; '.join(told.sections[name]))}"
            for name in ("Shape", "Returns", "Raises")
        ),
        "## Example",
        f"```python\n{example_code(told.examples)}```",
        "[All attacks](index.md) · [Add your own](../own_attack.md)",
    ]
    return "\n\n".join(lines) + "\n"


_COST = re.compile(r"\b(forwards?|backwards?|cost|model is not called)\b")


def _sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.])\s+", paragraph)


def _told(key: str, text: list[str]) -> list[str]:
    """The paragraphs, with the formulas where the docstring displays them, or before all."""
    shown = [markup(paragraph) if paragraph[0] != " " else "" for paragraph in text]
    place = shown.index("") if "" in shown else 0
    return [part for part in (*shown[:place], display(key), *shown[place:]) if part]


def _bullets(points: list[str]) -> str:
    return markup(points[0]) if len(points) == 1 else "\n".join(f"- {markup(point)}" for point in points)


def budget(cls: type[Attack]) -> str:
    """The L-inf radius that the attack guarantees, found by asking objects and not the docstring."""
    radius = cls().radius
    for field in fields(cls):
        if field.init and (field.default is None or isinstance(field.default, float)):
            try:
                moved = cls(**{field.name: _PROBE}).radius
            except ValueError:
                continue
            if moved == _PROBE != radius:
                given = f"none, unless `{field.name}` is given"
                return given if radius is None else f"`{field.name}`, by default `{format_value(radius)}`"
    return "none" if radius is None else f"`{format_value(radius)}`"


def _parameter_table(cls: type[Attack], attack: Attack, meanings: Mapping[str, str]) -> str:
    if not meanings:
        return "None: this attack is frozen."
    known = {field.name: field for field in fields(cls)}
    rows = ["| name | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, meaning in meanings.items():
        field, value = known[name], getattr(attack, name)
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        default = f"`{format_value(value)}`"
        if field.default is not MISSING and field.default is None and value is not None:
            default = f"`none`: here {default}"
        rows.append(f"| `{name}` | {kind.replace(' | ', ' or ')} | {default} | {markup(meaning)} |")
    return "\n".join(rows)


_IMPORT = re.compile(r"(import|from) ")
_WIDTH = 100  # of a line with its result beside it


def example_code(examples: list[doctest.Example]) -> str:
    """A doctest as a script: no prompts, and what it shows as a comment."""
    lines: list[str] = []
    for example in examples:
        source, shown = example.source.rstrip("\n"), example.want.rstrip("\n").splitlines()
        if lines and _IMPORT.match(lines[-1]) and not _IMPORT.match(source):
            lines.append("")
        if len(shown) == 1 and "\n" not in source and len(source + shown[0]) < _WIDTH:
            lines.append(f"{source}  # {shown[0]}")
        else:
            lines += [source, *(f"# {line}" for line in shown)]
    return "\n".join(lines) + "\n"


def index_page() -> str:
    """The table of all attacks, and of the losses they may climb."""
    rows = ["| name | class | L-inf budget | targets | together | what it is |", f"|{' --- |' * 6}"]
    for key, cls in ATTACKS.items():
        follows = "yes" if cls.takes_targets else "no"
        shares = cls().shares.name.lower().replace("_", " ")
        rows.append(
            f"| [`{key}`]({key}.md) | `{cls.__name__}` | {budget(cls)} | {follows} | {shares} | "
            f"{markup(CATALOG[key].summary)} |"
        )
    losses = ["| name | classes | value per volume, to be increased |", "| --- | --- | --- |"]
    for name, loss in LOSSES.items():
        first = " ".join(inspect.cleandoc(loss.__doc__ or "").split("\n\n")[0].split())
        meaning = markup(first.replace(", (B,)", ""))
        losses.append(f"| `{name}` | {MIN_CLASSES.get(name, 2)} or more | {meaning} |")
    lines = [
        f"<!-- Written by `{COMMAND}` from the docstrings of robustvox.attacks: edit those. -->",
        "# Attacks",
        "Every attack is a frozen record of hyper-parameters that is called with the model, the images and the "
        "labels. Images lie in [0, 1]; every sample of a batch is attacked on its own; the volume returned is the "
        "best one visited. Each page gives the formula, the source, and what differs from the published code.",
        "\n".join(rows),
        r"In formulas $\varepsilon$ is `eps`, $\alpha$ the step `alpha`, $\mu$ the `momentum`, $\sigma$ the `std`, $\rho$ `rho` and "
        r"$\beta$ `beta`, $\lambda$ (of SA2 $\lambda_S$) the `ssim_weight`, $\Pi$ the projection on the ball around $x$ and on "
        r"[0, 1], $W$ and $B$ Gaussian blurs, $f$ the model, $L$ the loss that is climbed, $T$ the `steps`, $N$ the voxels.",
        "The L-inf budget is what an attack guarantees for every voxel, whatever the model does. Attacks without "
        "one are compared by the distance measured on the result, which stands in every row of the tables.",
        "*Together* says which volumes may share a batch on a GPU so that each gets what it gets alone: see "
        "[Speed and memory](../performance.md).",
        "From Python `robustvox.attacks.ATTACKS` maps these names to the classes; on the command line "
        "`--attack NAME:key=value,...` takes them. An attack of your own: [own_attack.md](../own_attack.md).",
        "## Losses",
        "What the hyper-parameter `loss` may say. With targets the loss is taken against the targets and decreased.",
        "\n".join(losses),
    ]
    return "\n\n".join(lines) + "\n"


def differences(folder: Path, wanted: Mapping[str, str]) -> str:
    """What is wrong with the committed pages, for people: a diff, a missing page, a page without attack."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    report = [f"{name}: a page without an attack\n" for name in sorted(there.keys() - wanted.keys())]
    report += [f"{name}: an attack without a page\n" for name in sorted(wanted.keys() - there.keys())]
    for name in sorted(there.keys() & wanted.keys()):
        before, after = (text.splitlines(keepends=True) for text in (there[name], wanted[name]))
        report += difflib.unified_diff(before, after, f"committed/{name}", f"docstrings/{name}")
    return "".join([*report, f"Run `{COMMAND}` and commit docs/attacks\n"]) if report else ""


def write(folder: Path, wanted: Mapping[str, str]) -> None:
    """Make the folder hold these pages and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    try:
        write(FOLDER, pages())
    except DocstringError as problem:
        sys.exit(f"error: {problem}")
