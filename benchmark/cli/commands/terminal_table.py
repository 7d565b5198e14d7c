"""The rounded view of a results table in a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from ...plan.attacks import brief
from ...specs.protocols import find_protocol
from .console import escape

if TYPE_CHECKING:
    import pandas as pd


def results_table(table: pd.DataFrame, title: str) -> Table:
    """The rounded view of a results table that fits a terminal; the CSV has every column and digit."""
    transfer = bool((table["surrogate"] != table["target"]).any())
    protocols = {name: find_protocol(str(name)) for name in table["protocol"].unique()}
    unit = "/".join(sorted({"voxels" if protocol.voxel_hd95 else "mm" for protocol in protocols.values()}))
    view = Table(title=escape(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
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
