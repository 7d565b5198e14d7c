"""Write the tables and figures of stealing.md from the committed rows; nothing is measured here.

python docs/build_stealing.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from compress_figures import compress

from robustvox.benchmark.show.figures.canvas import encode, line_style, new_figure, quiet_grid, settings
from robustvox.benchmark.studies.stealing.tables import HEADINGS, cells, markdown, tables
from robustvox.benchmark.studies.stealing.thefts import PLAIN

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "stealing.md"
RESULTS = DOCS.parent / "results" / "hippocampus" / "stealing" / "unet-num_res_units-0-edge-6"
LESS = RESULTS.with_name(f"{RESULTS.name}-victim_steps-400")
"""The same study of a victim that was trained less; all finer questions were asked of it first."""
FIGURES = {"function": "stealing_function.png", "transfer": "stealing_transfer.png"}


def page(text: str, made: dict[str, pd.DataFrame]) -> str:
    """The page with its tables replaced."""
    for name, table in made.items():
        kind = name.split()[0]
        begin, end = f"<!-- {name}: python docs/build_stealing.py -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        if not found:
            raise SystemExit(f"error: expected {begin} in {PAGE.name}, found none")
        text = (
            f"{head}{begin}\n\n{markdown(HEADINGS[kind], cells(kind, table))}\n{end}{rest.partition(end)[2]}"
        )
    return text


def function_figure(calibration: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """Left: the filter, estimated and true. Right: Dice and agreement of every row, with intervals."""
    with settings():
        figure = new_figure(10.0, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        first = calibration[calibration["seed"] == calibration["seed"].min()]
        for number, (name, rows) in enumerate(first.groupby("estimator", sort=False)):
            left.plot(
                rows["frequency"], rows["log_h"], color=line_style(number).color, label=f"estimated, {name}"
            )
        one = first[first["estimator"] == first["estimator"].iloc[0]]
        left.plot(one["frequency"], one["log_h_true"], color="black", linestyle="--", label="true")
        left.set(xlabel="cycles per mm", ylabel="log H", title="transfer function of the thief's scanner")
        left.legend(fontsize=8)
        places = np.arange(len(table))[::-1]
        for number, name in enumerate(("dice", "agreement")):
            low, high = (np.abs(table[f"{name}_{end}"] - table[name]) for end in ("low", "high"))
            right.errorbar(
                table[name],
                places + 0.12 - 0.24 * number,
                xerr=np.stack([low, high]),
                fmt=line_style(number).marker,
                color=line_style(number).color,
                markersize=4,
                linewidth=1,
                label={"dice": "Dice with the truth", "agreement": "agreement with the victim on A"}[name],
            )
        right.set_yticks(places, list(table["row"]), fontsize=7)
        right.grid(axis="x", color="0.9", linewidth=0.6)
        right.set_axisbelow(True)
        right.set(xlabel="foreground Dice, 95% interval over patients")
        right.legend(fontsize=8, loc="upper left")
        return encode(figure, "png")


def transfer_figure(table: pd.DataFrame) -> bytes:
    """What ``smooth`` and its control cost the victim, by surrogate and radius."""
    rows = table[table["attack"].isin(["smooth", "smooth_noise"])]
    names = list(dict.fromkeys(rows["surrogate"]))
    radii = sorted(rows["eps"].unique())
    with settings():
        figure = new_figure(9.0, 4.2)
        axes = figure.subplots()
        places = np.arange(len(names))[::-1]
        for number, eps in enumerate(radii):
            same = rows[rows["eps"] == eps].set_index("surrogate").reindex(names)
            errors = np.stack([same["drop"] - same["drop_low"], same["drop_high"] - same["drop"]])
            axes.barh(
                places + 0.2 - 0.4 * number,
                same["drop"],
                0.38,
                xerr=errors,
                color=line_style(number).color,
                error_kw={"linewidth": 0.8},
                label=f"{255 * eps:g}/255",
            )
            for place in places[same["drop"].isna().to_numpy()]:  # no bar would read as no loss
                axes.text(
                    0.002, place + 0.2 - 0.4 * number, "not measured", fontsize=7, va="center", color="0.4"
                )
        axes.set_yticks(places, names, fontsize=8)
        axes.axvline(0.0, color="0.3", linewidth=0.8)
        axes.set(
            xlabel="loss of the victim's Dice, 95% interval over patients",
            title="`smooth`, made on another network",
        )
        axes.legend(fontsize=8, loc="lower right")
        quiet_grid(axes)
        return encode(figure, "png")


def all_tables() -> dict[str, pd.DataFrame]:
    """Every table of the page by the name of its marker."""
    less = {f"{name} less": table for name, table in tables(LESS).items()}
    return {**{name: table for name, table in tables(RESULTS).items() if name != "queries"}, **less}


def build() -> tuple[str, dict[str, bytes]]:
    """The page, and its figures by file name."""
    made = all_tables()
    calibration = pd.read_csv(LESS / "calibration.csv")
    figures = {
        FIGURES["function"]: function_figure(calibration, made["function less"]),
        FIGURES["transfer"]: transfer_figure(made["transfer less"]),
    }
    return page(PAGE.read_text(encoding="utf-8"), made), figures


def main() -> None:
    if PLAIN not in set(tables(RESULTS)["function"]["row"]):
        raise SystemExit(f"error: expected rows of the study in {RESULTS}, found none; run `steal`")
    text, figures = build()
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    for name, data in figures.items():
        (DOCS / "figures" / name).write_bytes(data)
        compress(DOCS / "figures" / name)


if __name__ == "__main__":
    main()
