"""What was asked of a run: its title, its attacks and their budgets, its commands, and every setting there is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from robustvox.attacks import CATALOG
from robustvox.datasets import IntensityWindow

from ..plan.attacks import brief
from ..plan.plan import Plan
from ..show.labels import AttackName, attack_names, is_noise
from ..specs.matched import parse_spec
from ..specs.options import RUNS
from ..specs.program import MODULE, pasted, program
from ..specs.spec import format_value
from ..specs.suites import SuiteRow, find_suite
from .tables import Cell, Table

_FOLDERS = ("--data-root", "--checkpoint", "--out", "--adversarial", "--config")
_CROSSED = (
    *("--model", "--checkpoint", "--untrained", "--roi-size", "--dataset", "--data-root", "--split"),
    *("--protocol", "--seed", "--device"),
)  # what every command takes that attacks
_LOOKED_AT = 2  # cases that a check looks at: two show more than one, twenty hardly more
_ONCE = ("--recompute", "--json")  # what a run that adds to this one must not repeat


def title(plan: Plan) -> str:
    """What the report is about, in a line."""
    names = list(dict.fromkeys(model.shown for model in plan.targets))
    whom = names[0] if len(names) == 1 else f"{len(names)} models"
    attacks = sum(not is_noise(attack.spec) for attack in plan.attacks) or len(plan.attacks)
    under = f"{attacks} attack{'' if attacks == 1 else 's'}" if attacks else "saved volumes"
    return f"{whom} on {plan.dataset.name} under {under}"


def attacks_table(plan: Plan, linf: Mapping[str, float], window: IntensityWindow | None = None) -> Table:
    """Every attack that was asked for: what it is, its budget, how far it went, and all its parameters.

    Args:
        plan: what was crossed.
        linf: largest measured L-inf by spec, of what was scored.
        window: that of all cases, where they have one in common; changes are then given in its unit too.
    """
    specs = Counter(attack.spec for attack in plan.attacks)
    specs.update(saved.note.attack for saved in plan.saved)
    rows = []
    for spec, name in attack_names(specs, linf).items():
        entry = CATALOG.get(name.name)
        moved = f"{255 * linf[spec]:.3g}/255" if spec in linf else "n/a"
        if window is not None and spec in linf:
            moved += f" = {window.physical(linf[spec]):.3g} {window.unit}"
        rows.append(
            (
                Cell(name.label, "word"),
                Cell(entry.summary if entry else "an attack of somebody's own", "text"),
                Cell(_budget(name), "word"),
                Cell(moved, "number"),
                Cell(spec, "spec"),
            )
        )
    headings = ("attack", "what it is", "budget", "largest change", "whole specification")
    return Table("Attacks and budgets", headings, tuple(rows))


def _budget(name: AttackName) -> str:
    """The budget in the unit of the image, n/255 where it is a change of intensity."""
    if name.knob in ("", "eps"):
        return name.budget
    return f"{name.knob} {format_value(name.parameters[name.knob])}, {name.budget}"


def common_window(windows: Collection[Any]) -> IntensityWindow | None:
    """The window that all cases have, where it has a unit; None where they differ or nobody knows.

    Example:
        >>> ct = IntensityWindow(-175.0, 250.0, "HU")
        >>> common_window([ct, ct]) == ct, common_window([ct, IntensityWindow(0.0, 9.0, "HU")]), common_window([])
        (True, None, None)
    """
    first = next(iter(windows), None)
    known = isinstance(first, IntensityWindow) and first.unit not in ("", "a.u.")
    return first if known and all(window == first for window in windows) else None


def untried(protocol: str, specs: Collection[str]) -> tuple[str, tuple[SuiteRow, ...]]:
    """The suite that a protocol is measured by, and those of its rows that were not asked for.

    A variant of a protocol has no suite; the one it varies says what there would be.

    Example:
        >>> name, rows = untried("robustvox-1:uint8=true", ["gn:std=8/255", "ensemble:eps=8/255"])
        >>> name, [row.label for row in rows][:2]
        ('robustvox-1', ['FGSM 8/255', 'PGD 8/255'])
    """
    suite = find_suite(protocol) or find_suite(protocol.partition(":")[0])
    if suite is None:
        return "", ()
    return suite.name, tuple(row for row in suite.run if row.spec not in specs)


def as_called(command: str) -> str:
    """A recorded command under the name that this program has here, so that it can be pasted.

    Example:
        >>> as_called("another --model unet")
        'another --model unet'
    """
    return f"{program()}{command.removeprefix(MODULE)}" if command.startswith(f"{MODULE} ") else command


def with_attacks(command: str, plan: Plan, attacks: Sequence[str]) -> str:
    """The command of a run with other attacks; written anew where it does not name them one by one.

    Example:
        >>> with_attacks("python -m benchmark run --model unet --attack pgd --cases 4", None, ["fgsm", "apgd"])
        'python -m benchmark run --model unet --cases 4 --attack fgsm --attack apgd'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if any(word.partition("=")[0] in ("--config", "--adversarial") for word in words):
        words = []
    kept, skip = [], False
    for word in words:
        if skip or word.startswith("--attack="):
            skip = False
        elif word == "--attack":
            skip = True
        elif word not in _ONCE:
            kept.append(word)
    if not any(word.partition("=")[0] == "--attack" for word in words):
        kept = [*program().split(), "run", *_crossed(plan), "--cases", ",".join(plan.cases)]
    return shlex.join([*kept, *(part for attack in attacks for part in ("--attack", attack))])


def check_command(command: str, plan: Plan) -> str:
    """The command that checks the attacks of a run on two of its cases; empty where there is none to check.

    Args:
        command: of the run, whose options of data, weights and protocol it keeps.
        plan: what was crossed.
    """
    attacks = [brief(a.spec, protocol=plan.protocol) for a in plan.attacks if not is_noise(a.spec)]
    if not attacks or not plan.surrogates:
        return ""
    options = [
        option for option in _options(command) if _flag(option) in _CROSSED or _flag(option) == "--out"
    ]
    named = any(_flag(option) == "--model" for option in options)
    crossed = [word for option in options for word in option] if named else _crossed(plan)
    attacked = [part for attack in attacks for part in ("--attack", attack)]
    return pasted(["check", *crossed, *attacked, "--cases", ",".join(plan.cases[:_LOOKED_AT])])


def view_command(command: str, plan: Plan, model: str, case: str, attack: str) -> str:
    """The command that makes a viewer of an attacked case, where the reports of the run find it.

    Args:
        command: of the run, as in :func:`check_command`.
        plan: what was crossed.
        model: name of the attacked one of its models.
        case: its id.
        attack: canonical spec.

    Returns:
        Nothing where the command does not tell which checkpoint is the model's.
    """
    options = list(_options(command))
    kept = [option for option in options if _flag(option) in _CROSSED]
    models = [option for option in kept if _flag(option) == "--model"]
    if len(models) > 1 and any(_flag(option) == "--checkpoint" for option in kept):
        return ""
    if len(models) != 1:
        kept = [("--model", model), *(option for option in kept if _flag(option) != "--model")]
    if not any(_flag(option) == "--dataset" for option in kept):
        kept.append(("--dataset", plan.dataset.name))
    out = next(
        (option[-1].removeprefix("--out=") for option in options if _flag(option) == "--out"), str(RUNS)
    )
    crossed = [word for option in kept for word in option]
    attacked = ("--attack", brief(attack, protocol=plan.protocol))
    return pasted(["view", case, *crossed, *attacked, "--results", out, "--out", out])


def _flag(option: Sequence[str]) -> str:
    return option[0].partition("=")[0]


def _options(command: str) -> Iterator[tuple[str, ...]]:
    """The options of a command, each with its value where that is a word of its own."""
    try:
        words = shlex.split(command)
    except ValueError:
        return
    starts = [at for at, word in enumerate(words) if word.startswith("--")]
    for at in starts:
        valued = at + 1 < len(words) and at + 1 not in starts and "=" not in words[at]
        yield tuple(words[at : at + 1 + valued])


def _crossed(plan: Plan) -> list[str]:
    models = dict.fromkeys(model.name for model in plan.surrogates)
    words = [part for name in models for part in ("--model", name)]
    words += ["--dataset", plan.dataset.name]
    return words + (["--protocol", plan.protocol.name] if plan.protocol.name != "robustvox-1" else [])


def has_folders(command: str) -> bool:
    """Whether a command names folders, which records hold without what stands in front of their last part."""
    return any(word.partition("=")[0] in _FOLDERS for word in command.split())


def settings(groups: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every setting as name and value, nested names joined by dots, by group.

    Example:
        >>> settings({"run": {"seed": 0, "compute": {"memory": "auto", "models": {}}}})
        [('run', [('seed', '0'), ('compute.memory', 'auto'), ('compute.models', 'none')])]
    """
    return [(name, list(_flat(values))) for name, values in groups.items()]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value:
        if any(isinstance(item, Mapping) for item in value):
            for at, item in enumerate(value):
                yield from _flat(item, f"{name}.{at}")
        else:
            yield name, ", ".join(_said(item) for item in value)
    else:
        yield name, _said(value)


def _said(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "none"
    return format_value(value) if isinstance(value, bool | float) else str(value)


def attack_settings(plan: Plan) -> dict[str, Mapping[str, Any]]:
    """Every parameter of every attack, by spec."""
    found = {}
    for attack in plan.attacks:
        parsed = parse_spec(attack.spec)
        matched = {"matched": parsed.matched._asdict()} if parsed.matched else {}
        found[attack.spec] = {**parsed.parameters, **matched}
    return found
