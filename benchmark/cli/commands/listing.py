"""``list``: the registries and the zoo, without importing torch."""

from __future__ import annotations

import importlib.metadata

from rich.console import Console, RenderableType
from rich.text import Text

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.datasets import CATALOG as DATASETS
from robustvox.models import CATALOG as MODELS
from robustvox.models import CheckpointError, read_card
from robustvox.models.complexity import facts
from robustvox.models.prompted import TARGETS

from ...plan.zoo import zoo_files
from ...specs.defences import CATALOG as DEFENCES
from ...specs.names import printable
from ...specs.protocols import PROTOCOLS, SWITCHES, Protocol
from .console import escape, make_console
from .fitted_table import fitted_table

STUDIES = {
    "check": "can a number be believed?",
    "compare": "is the difference between two models more than chance?",
    "frequency": "which frequencies of a perturbation do the harm?",
    "steal": "what does a copy made through inputs and outputs know, and what does it do to the victim?",
    "marking": "how far does a keyed watermark mislead models, and what takes it off?",
}


def show(console: Console | None = None) -> None:
    """Print every name the command line knows."""
    console = console or make_console()
    console.print(_models(console))
    console.print(_targets(console))
    attacks = {name: entry.summary for name, entry in ATTACKS.items()}
    attacks["torchattacks:NAME"] = "one of torchattacks, if installed: torchattacks:MIFGSM,eps=8/255"
    for title, rows in {
        "attacks (--attack)": attacks,
        "datasets (--dataset)": DATASETS,
        "defences (train --defence)": {name: entry.summary for name, entry in DEFENCES.items()},
        "protocols (--protocol)": {p.name: _switched_on(p) for p in PROTOCOLS.values()},
        "studies (a command each)": STUDIES,
    }.items():
        told = [(Text(name, "bold"), text) for name, text in rows.items()]
        console.print(fitted_table(console, title, ("", ""), told, fold=1))
    for group in ("robustvox.models", "robustvox.attacks", "robustvox.datasets"):
        for entry in importlib.metadata.entry_points(group=group):
            console.print(f"plug-in {group}: {escape(entry.name)} = {escape(entry.value)}", soft_wrap=True)


def _switched_on(protocol: Protocol) -> str:
    found = ", ".join(switch for switch in SWITCHES if getattr(protocol, switch))
    return f"overlap {protocol.overlap}, {protocol.mode} window" + (f"; {found}" if found else "")


def _models(console: Console) -> RenderableType:
    """Every architecture with its cost in both sizes and its checkpoints in the zoo."""
    windows = (facts()[next(iter(facts()))][size]["roi_size"] for size in ("small", "paper"))
    small, paper = ("x".join(map(str, window)) for window in windows)
    title = f"models (--model); weights and operations of one window, {small} small and {paper} paper"
    headings = ("", "small", "paper", "scan", "zoo, clean Dice (95% interval)", "")
    rows, zoo = [], _zoo()
    for name, entry in MODELS.items():
        costs = facts().get(name, {})
        cells = [
            f"{c['parameters'] / 1e6:.2f} M, {c['flops'] / 1e9:.1f} GFLOPs"
            if (c := costs.get(size))
            else "not measured"
            for size in ("small", "paper")
        ]
        scan = "PyTorch" if costs and costs["small"]["scan_flops"] else "none"
        checkpoints = "\n".join(zoo.get(name, ["none"]))
        rows.append((Text(name, "bold"), *cells, scan, checkpoints, entry.summary))
    return fitted_table(console, title, headings, rows, fold=2)


def _targets(console: Console) -> RenderableType:
    """Networks that others trained, with what one window of them costs."""
    title = "published targets (--model NAME --checkpoint FILE, with weights of your own)"
    headings = ("", "weights", "window", "GB with gradient", "seconds a window", "prompts", "")
    rows = [
        (
            Text(name, "bold"),
            "by folder" if entry.parameters is None else f"{entry.parameters / 1e6:.2f} M",
            "by folder" if entry.window is None else "x".join(map(str, entry.window)),
            _measured(entry.gradient_gb, 1, scaled=entry.scaled),
            _measured(entry.seconds, 0, scaled=entry.scaled),
            ", ".join(entry.prompts),
            entry.what,
        )
        for name, entry in TARGETS.items()
    ]
    return fitted_table(console, title, headings, rows, fold=1)


def _measured(value: float | None, digits: int, *, scaled: bool) -> str:
    if value is None:
        return "not measured"
    return f"about {value:.0f}" if scaled else f"{value:.{digits}f}"


def _zoo() -> dict[str, list[str]]:
    """Architecture to one line per checkpoint; a damaged one says so."""
    found: dict[str, list[str]] = {}
    for path in zoo_files():
        try:
            card = read_card(path)
        except CheckpointError as error:
            found.setdefault(path.stem, []).append(printable(error))
            continue
        dice = "unknown" if card.validation_dice is None else f"{card.validation_dice:.3f}"
        if card.validation_interval is not None:
            dice += " ({:.2f}-{:.2f})".format(*card.validation_interval)
        mark = f" @{card.defence}" if card.defence else ""
        found.setdefault(card.architecture, []).append(f"{printable(card.dataset)}{mark} {dice}")
    return found
