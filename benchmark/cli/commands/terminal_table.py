"""The rounded view of a results table in a terminal: one line a row where it fits, else two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...plan.attacks import brief
from ...specs.protocols import Protocol, find_protocol
from .console import escape
from .fitted_table import needs

if TYPE_CHECKING:
    import pandas as pd

_INDENT = 2  # of a row's second line
_GAP = 2  # between the columns of its first
_LEAST = 16  # of the column that names the attack


def results_table(table: pd.DataFrame, title: str, console: Console) -> RenderableType:
    """The rounded view of a results table that fits the terminal; the CSV has every column and digit.

    A terminal too narrow for all columns gets two lines a row: what is attacked and how it ended, and below it
    distances, budget, cost and flags. A model that is the only one stands in the title.
    """
    protocols = {name: find_protocol(str(name)) for name in table["protocol"].unique()}
    rows: list[Mapping[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    wide = _wide(rows, protocols, title)
    return wide if needs(wide, console) <= console.width else _narrow(rows, protocols, title, console.width)


def _wide(rows: list[Mapping[str, Any]], protocols: Mapping[str, Protocol], title: str) -> Table:
    """Every column, one line a row."""
    transfer = _is_transfer(rows)
    view = Table(title=escape(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    view.add_column("model" if not transfer else "surrogate", no_wrap=True)
    if transfer:
        view.add_column("target", no_wrap=True)
    view.add_column("attack", overflow="fold", min_width=16)
    unit = "/".join(sorted({_unit(protocol) for protocol in protocols.values()}))
    for name in (
        "n", "Dice\nclean", "Dice\nattacked", "95%\ninterval", f"HD95 {unit}\nclean", f"HD95 {unit}\nattacked",
        "organs\ngone", "Linf\n/255", "L2", "PSNR\ndB", "SSIM", "s",
    ):  # fmt: skip
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("flags", overflow="fold")
    for row in rows:
        models = [row["surrogate"], row["target"]] if transfer else [row["surrogate"]]
        view.add_row(
            *(escape(str(m)) for m in models),
            escape(_attack(row, protocols)),
            Text.assemble(str(row["n_cases"]), (_failed(row), "red")),
            _number(row["dice_clean"], 3),
            f"[bold]{_number(row['dice_adv'], 3)}[/bold]",
            _interval(row),
            _number(row["hd95_clean_mm"], 1),
            _number(row["hd95_adv_mm"], 1),
            str(row["missing"]),
            _number(row["linf"], 2, scale=255),
            _number(row["l2"], 2),
            _number(row["psnr"], 1),
            _number(row["ssim"], 3),
            _number(row["seconds"], 1),
            escape(_flags(row)),
        )
    return view


def _narrow(
    rows: list[Mapping[str, Any]], protocols: Mapping[str, Protocol], title: str, width: int
) -> Group:
    """Two lines a row, a heading per model: nothing that a reader must know is cut or folded away."""
    heads = ("n", "clean", "attacked", "95% interval")
    cells = [(_count(r), _number(r["dice_clean"], 3), _number(r["dice_adv"], 3), _interval(r)) for r in rows]
    sizes = [max(len(line[place]) for line in (heads, *cells)) for place in range(len(heads))]
    names = [_attack(row, protocols) for row in rows]
    room = width - sum(sizes) - _GAP * (len(sizes) + 1)
    first = max(min(max(map(len, names)), room), _LEAST)

    def line(name: str, values: tuple[str, ...], style: str = "") -> Table:
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(width=first, overflow="fold")
        for size in sizes:
            grid.add_column(width=size, justify="right", no_wrap=True)
        grid.add_row(Text(name, style), *(Text(value, style) for value in values))
        return grid

    parts: list[RenderableType] = [Text(title, "italic"), line("attack", heads, "bold")]
    headings = [_heading(row, transfer=_is_transfer(rows)) for row in rows]
    for place, row in enumerate(rows):
        if place == 0 or headings[place] != headings[place - 1]:
            parts.append(Text(headings[place], "bold cyan"))
        parts.append(line(names[place], cells[place]))
        more = Text(", ".join(_details(row, _unit(protocols[row["protocol"]]))), "dim")
        parts.append(Padding(more, (0, 0, 0, _INDENT)))
        if _flags(row):
            parts.append(Padding(Text(f"flags: {_flags(row)}", "yellow"), (0, 0, 0, _INDENT)))
    return Group(*parts)


def _details(row: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What stands in the second line."""
    yield f"HD95 {_number(row['hd95_clean_mm'], 1)} to {_number(row['hd95_adv_mm'], 1)} {unit}"
    yield f"{row['missing']} gone"
    yield f"Linf {_number(row['linf'], 2, scale=255).removesuffix('.00')}/255"
    yield f"L2 {_number(row['l2'], 2)}"
    yield f"{_number(row['psnr'], 1)} dB"
    yield f"SSIM {_number(row['ssim'], 3)}"
    yield f"{_number(row['seconds'], 1 if row['seconds'] < 10 else 0)} s"


def _heading(row: Mapping[str, Any], *, transfer: bool) -> str:
    return f"{row['surrogate']} on {row['target']}" if transfer else str(row["surrogate"])


def _is_transfer(rows: list[Mapping[str, Any]]) -> bool:
    return any(row["surrogate"] != row["target"] for row in rows)


def _attack(row: Mapping[str, Any], protocols: Mapping[str, Protocol]) -> str:
    return brief(str(row["attack"]), protocol=protocols[row["protocol"]])


def _count(row: Mapping[str, Any]) -> str:
    return f"{row['n_cases']}{_failed(row)}"


def _failed(row: Mapping[str, Any]) -> str:
    return f" ({row['failed']} failed)" if row["failed"] else ""


def _interval(row: Mapping[str, Any]) -> str:
    if math.isnan(row["dice_adv_low"]):
        return "-"
    return f"{_number(row['dice_adv_low'], 2)}-{_number(row['dice_adv_high'], 2)}"


def _flags(row: Mapping[str, Any]) -> str:
    return str(row["flags"]).replace(";", " ")


def _unit(protocol: Protocol) -> str:
    return "voxels" if protocol.voxel_hd95 else "mm"


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value * scale:.{digits}f}"
