"""Train and score what docs/large_scale_training.md shows, and write its table and figure.

python docs/build_large_scale.py --data-root DIR [--model unet --model swin_unetr] [--steps 1000] [--seeds 1] [--device cuda]
python docs/build_large_scale.py --render

The first trains what is missing and appends rows to docs/large_scale.csv; stopped, it goes on where it was. The second
only derives table and figure from the rows that are there.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from compress_figures import compress

from robustvox.benchmark.cli.commands.console import make_console
from robustvox.benchmark.metrics.statistics import shown_intervals, with_interval
from robustvox.benchmark.show.figures.canvas import encode, line_style, new_figure, quiet_grid, settings
from robustvox.benchmark.show.tables.markup import markdown_table
from robustvox.benchmark.studies.data_size.study import (
    Arm,
    CaseScore,
    DataSizeStudy,
    add_scores,
    read_scores,
)
from robustvox.benchmark.training.recipe import Progress, Recipe
from robustvox.datasets import open_dataset

DOCS = Path(__file__).resolve().parent
PAGE, ROWS, FIGURE = (
    DOCS / "large_scale_training.md",
    DOCS / "large_scale.csv",
    DOCS / "figures" / "large_scale.png",
)
BEGIN, END = "<!-- table: python docs/build_large_scale.py --render -->", "<!-- end of table -->"
SIZES, PHANTOMS, CASES = (10, 20, 40, 80, 160), 200, 12


def arms(models: list[str], seeds: int) -> list[Arm]:
    """Every training that is asked for, the cheapest answer first."""
    sizes = [(size, 0) for size in SIZES] + [(SIZES[-1], PHANTOMS)]
    return [Arm(model, *size, seed) for seed, model, size in product(range(seeds), models, sizes)]


def tell(name: str, step: Progress) -> None:
    """A line every fifty steps, for a log."""
    if step.step % 50 == 0:
        make_console().print(f"{name}: {step.step} of {step.steps}, loss {step.loss:.3f}")


def measure(root: Path, folder: Path, wanted: list[Arm], steps: int, device: str) -> None:
    """Train and score the arms that have no rows yet."""
    dataset = open_dataset("hippocampus", root)
    study = DataSizeStudy(
        dataset=dataset,
        folder=folder,
        recipe=Recipe(steps=steps),
        cases=tuple(dataset.splits["validation"][:CASES]),
        device=device,
        on_step=tell,
    )
    for arm in wanted:
        known = {(row.model, row.patients, row.phantoms, row.seed) for row in read_scores(ROWS)}
        if (arm.model, arm.patients, arm.phantoms, arm.seed) not in known:
            add_scores(ROWS, list(study.score(arm)))


def interval(rows: list[CaseScore], name: str) -> tuple[float, float, float]:
    """Mean over cases of the means over seeds, and its interval with patients resampled."""
    cases = sorted({row.case for row in rows})
    values = np.array([np.mean([getattr(r, name) for r in rows if r.case == case]) for case in cases])
    whose = [next(row.patient for row in rows if row.case == case) for case in cases]
    low, high = shown_intervals(values[None], patients=whose)
    return float(values.mean()), float(low[0]), float(high[0])


def table(rows: list[CaseScore]) -> str:
    """The table of the page; an arm without rows is named as missing, and none is left out."""
    models = sorted({row.model for row in rows} | {"unet", "swin_unetr"}, reverse=True)
    lines = []
    for model, (size, phantoms) in product(models, [*((s, 0) for s in SIZES), (SIZES[-1], PHANTOMS)]):
        mine = [r for r in rows if (r.model, r.patients, r.phantoms) == (model, size, phantoms)]
        trained = f"{size}, after {phantoms} phantoms" if phantoms else str(size)
        if not mine:
            lines.append([model, trained, "missing", "missing", "0"])
            continue
        shown = [with_interval(*interval(mine, n)) for n in ("dice_clean", "dice_pgd")]
        lines.append([model, trained, *shown, str(len({row.seed for row in mine}))])
    return markdown_table(["model", "patients", "clean Dice", "PGD-20 8/255", "seeds"], lines, left=(0, 1))


def figure(rows: list[CaseScore]) -> bytes:
    """Clean and robust Dice over the number of patients, a star after phantoms."""
    with settings():
        drawn = new_figure(7.0, 3.6)
        axes = drawn.subplots()
        for number, (model, name) in enumerate(
            product(sorted({r.model for r in rows}), ("dice_clean", "dice_pgd"))
        ):
            style = line_style(number)
            mine = [r for r in rows if r.model == model]
            sizes = sorted({r.patients for r in mine if not r.phantoms})
            found = np.array(
                [interval([r for r in mine if r.patients == n and not r.phantoms], name) for n in sizes]
            )
            label = f"{model}, {'clean' if name == 'dice_clean' else 'PGD-20 8/255'}"
            if len(sizes):
                axes.plot(
                    sizes, found[:, 0], color=style.color, marker=style.marker, markersize=4, label=label
                )
                axes.fill_between(sizes, found[:, 1], found[:, 2], color=style.color, alpha=0.15, linewidth=0)
            before = [r for r in mine if r.phantoms]
            if before:
                axes.plot(
                    before[0].patients * 1.08, interval(before, name)[0], "*", color=style.color, markersize=9
                )
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.set(xlabel="patients in training", ylabel="mean foreground Dice, 95% interval")
        axes.legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.62), ncols=2)
        quiet_grid(axes)
        return encode(drawn, "png")


def render() -> None:
    """Table and figure from the rows."""
    rows = read_scores(ROWS)
    head, found, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if not found:
        raise SystemExit(f"error: expected {BEGIN} in {PAGE.name}, found none")
    text = f"{head}{BEGIN}\n\n{table(rows)}\n{END}{rest.partition(END)[2]}"
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    if rows:
        FIGURE.write_bytes(figure(rows))
        compress(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/data_size"), help="where checkpoints are kept"
    )
    parser.add_argument("--model", action="append", help="architecture; may repeat")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where to train and attack")
    parser.add_argument("--render", action="store_true", help="only derive table and figure")
    asked = parser.parse_args()
    if not asked.render:
        if asked.data_root is None:
            raise SystemExit("error: expected --data-root DIR with Task04_Hippocampus, got none")
        asked.folder.mkdir(parents=True, exist_ok=True)
        measure(
            asked.data_root,
            asked.folder,
            arms(asked.model or ["unet", "swin_unetr"], asked.seeds),
            asked.steps,
            asked.device,
        )
    render()


if __name__ == "__main__":
    main()
