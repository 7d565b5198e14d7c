"""Write the tables of robust_training.md from committed rows; nothing is measured here.

python docs/build_robust_training.py [--seeds RUN ...]

The first table is from results/hippocampus/records. The second is from docs/robust_seeds.csv, a row per seed, network,
attack and patient; --seeds adds the rows of runs on checkpoints that are not committed, folders called SEED/.... Those
of ACDC are from results/acdc_light, white box and transfer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from robustvox.benchmark import load_records
from robustvox.benchmark.metrics.statistics import bootstrap_intervals
from robustvox.benchmark.show.tables.markup import csv_text, markdown_table

DOCS = Path(__file__).resolve().parent
PAGE, SEEDS = DOCS / "robust_training.md", DOCS / "robust_seeds.csv"
RECORDS = DOCS.parent / "results" / "hippocampus" / "records"
ACDC = DOCS.parent / "results" / "acdc_light"
START, END = "<!-- {}: python docs/build_robust_training.py -->", "<!-- end of {} -->"

MODELS = (
    "unet", "unet@noise", "unet@pgd_at", "unet@trades", "unet@vaft", "segresnet", "segresnet@pgd_at",
    "swin_unetr", "swin_unetr@pgd_at", "mamba_unet", "mamba_unet@pgd_at",
)  # fmt: skip
PGD = "pgd:alpha={},eps={},loss=dice,random_start=true,restarts=1,steps={}"
ATTACKS = {
    "clean": "none",
    "FGSM 8": "fgsm:eps=8/255,loss=dice",
    "PGD-20 4": PGD.format("1/255", "4/255", 20),
    "PGD-20 8": PGD.format("2/255", "8/255", 20),
    "PGD-100 8": PGD.format("2/255", "8/255", 100),
    "CosPGD 8": "cospgd:alpha=2/255,eps=8/255,random_start=true,restarts=1,steps=20",
    "ensemble 8": "ensemble:eps=8/255",
    "Square 8": "square:eps=8/255,loss=dice,p_init=0.8,queries=1000",
    "VAFA 30": "vafa:block_size=32,eps=none,hard_rounding=false,loss=dice_ce,q_init=max,q_max=30,q_min=1,renorm=none,"
    "ssim_weight=1,steps=20",
    "PGD-40 eps 1": PGD.format("0.25", "1", 40),
}
ACDC_MODELS = ("unet", "segresnet", "unetr", "swin_unetr", "mamba_unet")
ACDC_ATTACKS = {
    "noise 8": "gn:std=8/255",
    **{name: ATTACKS[name] for name in ("FGSM 8", "PGD-20 4", "PGD-20 8", "CosPGD 8")},
    "VAFA 20": ATTACKS["VAFA 30"].replace("q_max=30", "q_max=20"),
}
PER_SEED = ("clean", "PGD-20 8", "PGD-100 8", "ensemble 8")


def means(scores: pd.DataFrame) -> pd.DataFrame:
    """White-box rows: Dice of each case, a mean over its foreground classes."""
    rows = scores[scores.surrogate == scores.target]
    return rows.groupby(["target", "attack", "case"], as_index=False)["dice"].mean()


def table(rows: pd.DataFrame) -> str:
    lines = []
    for model in MODELS:
        cells = [model]
        for spec in ATTACKS.values():
            found = rows[(rows.target == model) & (rows.attack == spec)]
            cells.append(f"{found.dice.mean():.3f}" if len(found) else "missing")
        lines.append(cells)
    return markdown_table(["", *ATTACKS], lines, left=(0,))


def pairs(scores: pd.DataFrame) -> str:
    """PGD-20 at 8/255 between a network and itself after ``pgd_at``, both ways, beside the white box of both."""
    rows = scores[scores.attack == ATTACKS["PGD-20 8"]]
    dice = rows.groupby(["surrogate", "target"]).dice.mean()
    lines = []
    for model in (name for name in MODELS if f"{name}@pgd_at" in MODELS):
        robust = f"{model}@pgd_at"
        ways = ((model, model), (robust, model), (robust, robust), (model, robust))
        lines.append([model, *(f"{dice[way]:.3f}" if way in dice else "missing" for way in ways)])
    head = ["", "on itself", "from its robust self", "robust, on itself", "robust, from the natural one"]
    return markdown_table(head, lines, left=(0,))


def seed_table(rows: pd.DataFrame) -> str:
    """Means of seeds, and the mean of the seeds with its interval over patients."""
    lines = []
    for model in ("unet", "unet@noise", "unet@pgd_at"):
        for name in PER_SEED:
            mine = rows[(rows.model == model) & (rows.attack == name)]
            by_seed = {seed: part.dice.mean() for seed, part in mine.groupby("seed")}
            shown = [f"{by_seed[seed]:.3f}" if seed in by_seed else "missing" for seed in range(3)]
            values = mine.groupby("case").dice.mean().to_numpy()
            low, high = bootstrap_intervals(values[None])
            whole = f"{values.mean():.3f} ({low[0]:.3f} to {high[0]:.3f})" if len(by_seed) == 3 else "missing"
            lines.append([model, name, *shown, whole])
    return markdown_table(["", "attack", "seed 0", "seed 1", "seed 2", "mean of three"], lines, left=(0, 1))


def acdc_table() -> str:
    """White box, with intervals over the patients; a network without rows says so."""
    rows = pd.read_csv(ACDC / "white_box.csv")
    lines = []
    for model in ACDC_MODELS:
        mine = rows[rows.target == model].set_index("attack")
        cells = [model, f"{mine.dice_clean.iloc[0]:.3f}" if len(mine) else "missing"]
        for spec in ACDC_ATTACKS.values():
            row = mine.loc[spec] if spec in mine.index else None
            cells.append(
                "missing"
                if row is None
                else f"{row.dice_adv:.3f} ({row.dice_adv_low:.3f} to {row.dice_adv_high:.3f})"
            )
        lines.append(cells)
    return markdown_table(["", "clean", *ACDC_ATTACKS], lines, left=(0,))


def acdc_transfer() -> str:
    """PGD-20 at 8/255: made on the network of the line, scored on that of the column."""
    rows = pd.concat([pd.read_csv(ACDC / f"{name}.csv") for name in ("white_box", "transfer")])
    found = rows[rows.attack == ATTACKS["PGD-20 8"]].set_index(["surrogate", "target"]).dice_adv
    lines = [
        [
            source,
            *(
                f"{found[source, target]:.3f}" if (source, target) in found else "missing"
                for target in ACDC_MODELS
            ),
        ]
        for source in ACDC_MODELS
    ]
    return markdown_table(["made on", *ACDC_MODELS], lines, left=(0,))


def add_seeds(runs: list[Path]) -> None:
    """Rows of runs beside those of the committed seed 0."""
    names = {spec: name for name, spec in ATTACKS.items() if name in PER_SEED}
    parts = [means(load_records(RECORDS).scores).assign(seed=0)]
    parts += [
        means(load_records(run / "hippocampus" / "records").scores).assign(seed=int(run.name.lstrip("s")))
        for run in runs
    ]
    rows = pd.concat(parts).rename(columns={"target": "model"})
    rows = rows[rows.attack.isin(names) & rows.model.isin(["unet", "unet@noise", "unet@pgd_at"])]
    rows = rows.assign(attack=rows.attack.map(names), dice=rows.dice.round(6))
    order = ["model", "attack", "seed", "case"]
    rows = rows.drop_duplicates(order).sort_values(order)[[*order, "dice"]]
    SEEDS.write_text(csv_text(rows, ("model", "attack", "case")), encoding="utf-8")


def put(text: str, name: str, content: str) -> str:
    begin, end = START.format(name), END.format(name)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"error: expected {begin} and {end} in {PAGE.name}, found not both; put them back")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def page(text: str) -> str:
    """The page with its tables as the rows have them."""
    scores = load_records(RECORDS).scores
    text = put(text, "networks", table(means(scores)))
    text = put(text, "pairs", pairs(scores))
    text = put(text, "acdc", acdc_table())
    text = put(text, "acdc transfer", acdc_transfer())
    return put(text, "seeds", seed_table(pd.read_csv(SEEDS)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=Path, nargs="+", help="runs to take seeds from")
    asked = parser.parse_args()
    if asked.seeds:
        add_seeds(asked.seeds)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
