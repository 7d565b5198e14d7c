"""``list``: the registries and the zoo, without importing torch."""

from __future__ import annotations

import importlib.metadata

from rich.console import Console
from rich.table import Table

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.datasets import CATALOG as DATASETS
from robustvox.models import CATALOG as MODELS
from robustvox.models import CheckpointError, read_card
from robustvox.models.complexity import facts
from robustvox.models.prompted import TARGETS

from ...plan.zoo import zoo_files
from ...specs.defences import CATALOG as DEFENCES
from ...specs.protocols import PROTOCOLS, SWITCHES, Protocol
from .console import escape, make_console

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
    console.print(_models())
    console.print(_targets())
    attacks = {name: entry.summary for name, entry in ATTACKS.items()}
    attacks["torchattacks:NAME"] = "one of torchattacks, if installed: torchattacks:MIFGSM,eps=8/255"
    console.print(_table("attacks (--attack)", attacks))
    console.print(_table("datasets (--dataset)", DATASETS))
    console.print(_table("defences (train --defence)", {k: e.summary for k, e in DEFENCES.items()}))
    protocols = {p.name: _switched_on(p) for p in PROTOCOLS.values()}
    console.print(_table("protocols (--protocol)", protocols))
    console.print(_table("studies (a command each)", STUDIES))
    for group in ("robustvox.models", "robustvox.attacks", "robustvox.datasets"):
        for entry in importlib.metadata.entry_points(group=group):
            console.print(f"plug-in {group}: {escape(entry.name)} = {escape(entry.value)}")


def _switched_on(protocol: Protocol) -> str:
    found = ", ".join(switch for switch in SWITCHES if getattr(protocol, switch))
    return f"overlap {protocol.overlap}, {protocol.mode} window" + (f"; {found}" if found else "")


def _table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, text in rows.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(text))
    return table


def _models() -> Table:
    """Every architecture with its cost in both sizes and its checkpoints in the zoo."""
    table = Table(title="models (--model)", title_justify="left", box=None, padding=(0, 2))
    table.add_column("name")
    for size in ("small", "paper"):
        roi_size = next(iter(facts().values()))[size]["roi_size"]
        table.add_column(f"{size}: weights, GFLOPs\nat {'x'.join(map(str, roi_size))}", justify="right")
    table.add_column("scan")
    table.add_column("zoo: clean Dice (95% interval)")
    table.add_column("what it is")
    zoo = _zoo()
    for name, entry in MODELS.items():
        costs = facts().get(name, {})
        cells = [
            f"{c['parameters'] / 1e6:.2f} M, {c['flops'] / 1e9:.1f}"
            if (c := costs.get(size))
            else "not measured"
            for size in ("small", "paper")
        ]
        scan = "PyTorch" if costs and costs["small"]["scan_flops"] else "none"
        checkpoints = "\n".join(zoo.get(name, ["none"]))
        table.add_row(f"[bold]{name}[/bold]", *cells, scan, checkpoints, escape(entry.summary))
    return table


def _targets() -> Table:
    """Networks that others trained, with what one window of them costs."""
    title = "published targets (--model NAME --checkpoint FILE, with weights of your own)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for heading in (
        "name",
        "weights",
        "window",
        "GB with gradient",
        "seconds a window",
        "prompts",
        "what it is",
    ):
        table.add_column(heading)
    for name, entry in TARGETS.items():
        table.add_row(
            f"[bold]{name}[/bold]",
            "by folder" if entry.parameters is None else f"{entry.parameters / 1e6:.2f} M",
            "by folder" if entry.window is None else "x".join(map(str, entry.window)),
            _measured(entry.gradient_gb, 1, scaled=entry.scaled),
            _measured(entry.seconds, 0, scaled=entry.scaled),
            ", ".join(entry.prompts),
            escape(entry.what),
        )
    return table


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
            found.setdefault(path.stem, []).append(f"[red]{escape(str(error))}[/red]")
            continue
        dice = "unknown" if card.validation_dice is None else f"{card.validation_dice:.3f}"
        if card.validation_interval is not None:
            dice += " ({:.2f}-{:.2f})".format(*card.validation_interval)
        mark = f" @{card.defence}" if card.defence else ""
        found.setdefault(card.architecture, []).append(f"{escape(card.dataset)}{mark} {dice}")
    return found
