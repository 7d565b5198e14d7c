"""``list``: the registries and the zoo, without importing torch."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robustvox.attacks import CATALOG as ATTACKS
from robustvox.datasets import CATALOG as DATASETS
from robustvox.models import CATALOG as MODELS
from robustvox.models import CheckpointError, read_card

from .console import make_console
from .protocols import PROTOCOLS

ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"


def show(console: Console | None = None) -> None:
    """Print every name the command line knows."""
    console = console or make_console()
    console.print(_table("models (--model)", {name: text for name, text in MODELS.items()}))
    attacks = {name: entry[-1] for name, entry in ATTACKS.items()}
    attacks["torchattacks:NAME"] = "one of torchattacks, if installed: torchattacks:MIFGSM,eps=8/255"
    console.print(_table("attacks (--attack)", attacks))
    console.print(_table("datasets (--dataset)", DATASETS))
    protocols = {p.name: f"overlap {p.overlap}, {p.mode} window" for p in PROTOCOLS.values()}
    console.print(_table("protocols (--protocol)", protocols))
    console.print(_zoo())
    for group in ("robustvox.models", "robustvox.attacks", "robustvox.datasets"):
        for entry in importlib.metadata.entry_points(group=group):
            console.print(f"plug-in {group}: {escape(entry.name)} = {escape(entry.value)}")


def _table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, text in rows.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(text))
    return table


def _zoo() -> Table:
    table = Table(title="zoo", title_justify="left", box=None, padding=(0, 2))
    for column in ("dataset", "model", "validation Dice", "window", "steps"):
        table.add_column(column)
    for path in sorted(ZOO.glob("*/*.safetensors")):
        try:
            card = read_card(path)
        except CheckpointError as error:
            table.add_row(
                escape(path.parent.name), escape(path.stem), f"[red]{escape(str(error))}[/red]", "", ""
            )
            continue
        dice = "unknown" if card.validation_dice is None else f"{card.validation_dice:.3f}"
        window = "x".join(map(str, card.roi_size))
        table.add_row(card.dataset, card.architecture, dice, window, str(card.recipe.get("steps", "")))
    return table
