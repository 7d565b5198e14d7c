"""What a person sees while a run goes on and when it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ...plan.attacks import brief

if TYPE_CHECKING:
    import pandas as pd


PIPE_WIDTH = 180
"""A table in a pipe or a log is not cut at 80 columns."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that is wide enough when nobody's terminal limits it."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """A bar with the time left on stderr; silent when stderr is not a terminal."""
    console = make_console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        bar.add_task(title, total=total)
        yield bar


def results_table(table: pd.DataFrame, title: str) -> Table:
    """The rounded view of a results table that fits a terminal; the CSV has every column and digit."""
    from ...specs.protocols import find_protocol

    transfer = bool((table["surrogate"] != table["target"]).any())
    protocols = {name: find_protocol(str(name)) for name in table["protocol"].unique()}
    unit = "/".join(sorted({"voxels" if protocol.voxel_hd95 else "mm" for protocol in protocols.values()}))
    view = Table(title=title, title_justify="left", box=None, padding=(0, 1), header_style="bold")
    view.add_column("model" if not transfer else "surrogate", no_wrap=True)
    if transfer:
        view.add_column("target", no_wrap=True)
    view.add_column("attack", overflow="fold", min_width=16)
    for name in (
        "n", "Dice\nclean", "Dice\nattacked", "95%\ninterval", f"HD95 {unit}\nclean", f"HD95 {unit}\nattacked",
        "organs\nlost", "Linf\n/255", "L2", "PSNR\ndB", "SSIM", "s",
    ):  # fmt: skip
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("flags", overflow="fold")
    for row in table.to_dict("records"):
        models = [row["surrogate"], row["target"]] if transfer else [row["surrogate"]]
        failed = f" [red]({row['failed']} failed)[/red]" if row["failed"] else ""
        view.add_row(
            *(escape(str(m)) for m in models),
            escape(brief(str(row["attack"]), protocol=protocols[row["protocol"]])),
            f"{row['n_cases']}{failed}",
            _number(row["dice_clean"], 3),
            f"[bold]{_number(row['dice_adv'], 3)}[/bold]",
            f"{_number(row['dice_adv_low'], 2)}-{_number(row['dice_adv_high'], 2)}",
            _number(row["hd95_clean_mm"], 1),
            _number(row["hd95_adv_mm"], 1),
            str(row["missing"]),
            _number(row["linf"], 2, scale=255),
            _number(row["l2"], 2),
            _number(row["psnr"], 1),
            _number(row["ssim"], 3),
            _number(row["seconds"], 1),
            escape(str(row["flags"]).replace(";", " ")),
        )
    return view


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value * scale:.{digits}f}"
