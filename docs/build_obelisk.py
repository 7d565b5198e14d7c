"""What OBELISK's two published networks do under attack: the numbers and the figure of docs/foundation_models.md.

OMP_NUM_THREADS=1 python docs/build_obelisk.py DATA [--cache DIR] [--networks obelisk_hybrid obelisk_unet] [--device cuda]

DATA holds `obelisk/*.pth` and `totalsegmentator_ct/{ct,seg}.nii.gz`. Rows are written to docs/obelisk.csv as they are
made; those that are there are not made again. The predictions of a row are kept below --cache for the figure.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from compress_figures import compress
from matplotlib.patches import Patch
from torch import Tensor

from robustvox.attacks import PGD
from robustvox.benchmark.show.figures.canvas import new_figure, save, settings
from robustvox.benchmark.show.figures.labels import legend_style, paint_labels
from robustvox.benchmark.show.figures.planes import planes
from robustvox.datasets.msd import CT_WINDOW
from robustvox.datasets.nifti import RawCase, read_array, read_file
from robustvox.datasets.prepare import Preparation
from robustvox.models.obelisk import CLASS_NAMES
from robustvox.models.prompted import Case, PromptedTarget, open_target

HERE = Path(__file__).resolve().parent
TABLE = HERE / "obelisk.csv"
FILES = {"obelisk_hybrid": "obeliskhybrid_tcia_fold1.pth", "obelisk_unet": "allconvunet_tcia_fold1.pth"}
TOTALSEGMENTATOR = {1: 1, 7: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 19: 8}
"""TotalSegmentator's class ids of the organs of CLASS_NAMES."""

BUDGETS_HU = (13.3, 8.0, 4.0, 2.0, 1.0)
STEPS = 20
OTHER_STEPS = (40, 10, 5)
"""At the largest budget, to show that STEPS are enough."""

START, END = "<!-- obelisk:start -->", "<!-- obelisk:end -->"
SLICE = 15
NOISE_SEEDS = (0, 1, 2, 3, 4)
KEYS = ("network", "change", "budget_hu", "steps", "seed")
COLUMNS = (*KEYS, *(f"dice {n}" for n in CLASS_NAMES[1:]), "agreement_liver", "agreement_organs", "linf_hu")


@dataclass(frozen=True)
class Scan:
    """The CT in [0, 1] with its labels."""

    image: Tensor
    label: np.ndarray
    case: Case


def read_scan(data: Path) -> Scan:
    folder = data / "totalsegmentator_ct"
    scan = read_file(folder / "ct.nii.gz", "ct")
    labels, _, _ = read_array(folder / "seg.nii.gz", "ct")
    mapped = np.zeros(labels.shape, np.int16)
    for source, target in TOTALSEGMENTATOR.items():
        mapped[labels == source] = target
    raw = RawCase("ct", scan.array.astype(np.float32)[None], mapped, scan.grid)
    volume = Preparation(window=CT_WINDOW)(raw)
    tensor = torch.from_numpy(volume.image)[None]
    case = Case(
        id="ct",
        image=tensor,
        spacing_mm=tuple(volume.spacing_mm),
        axes="RAS",
        window=(CT_WINDOW.low, CT_WINDOW.high),
        unit="HU",
    )
    return Scan(tensor, volume.label, case)


def epsilon(budget_hu: float) -> float:
    """Budget on [0, 1]; 13.3 HU stands for 8/255 exactly."""
    return 8 / 255 if budget_hu == 13.3 else budget_hu / (CT_WINDOW.high - CT_WINDOW.low)


class Change(NamedTuple):
    """What is done to the scan; every row that is wanted has one."""

    kind: str
    budget_hu: float = 0.0
    steps: int = 0
    seed: int = 0

    @property
    def file(self) -> str:
        return f"{self.kind.replace(' ', '_')}-{self.budget_hu}-{self.steps}-{self.seed}.npz"


def changes() -> Iterator[Change]:
    """Clean, noise of the full budget, PGD, PGD of fewer and more steps, and more seeds of the noise."""
    yield Change("clean")
    yield Change("sign noise", BUDGETS_HU[0])
    for budget in BUDGETS_HU:
        yield Change("pgd", budget, STEPS)
    for steps in OTHER_STEPS:
        yield Change("pgd", BUDGETS_HU[0], steps)
    for seed in NOISE_SEEDS[1:]:
        yield Change("sign noise", BUDGETS_HU[0], seed=seed)


def changed(target: PromptedTarget, scan: Scan, change: Change) -> Tensor:
    eps = epsilon(change.budget_hu)
    generator = torch.Generator().manual_seed(change.seed)
    if change.kind == "clean":
        return scan.image
    if change.kind == "sign noise":
        signs = torch.randint(0, 2, scan.image.shape, generator=generator) * 2.0 - 1
        return (scan.image + eps * signs.to(scan.image)).clamp(0, 1)
    labels = torch.from_numpy(scan.label.astype(np.int64))[None, None].to(scan.image.device)
    return PGD(eps=eps, steps=change.steps)(target, scan.image, labels, generator=generator)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks; NaN where both are empty."""
    size = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / size if size else float("nan")


def row(scan: Scan, image: Tensor, prediction: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Scores against the labels, and agreement with the clean prediction: of the liver, and of all organs at once."""
    scores = {f"dice {n}": dice(prediction == k, scan.label == k) for k, n in enumerate(CLASS_NAMES) if k}
    same = int(((prediction == clean) & (clean > 0)).sum())
    organs = int((prediction > 0).sum() + (clean > 0).sum())
    liver = CLASS_NAMES.index("liver")
    return {
        **scores,
        "agreement_liver": dice(prediction == liver, clean == liver),
        "agreement_organs": 2 * same / max(organs, 1),
        "linf_hu": float((image - scan.image).abs().max()) * (CT_WINDOW.high - CT_WINDOW.low),
    }


def done() -> set[tuple[str, ...]]:
    if not TABLE.is_file():
        return set()
    with TABLE.open(newline="") as file:
        return {tuple(r[key] for key in KEYS) for r in csv.DictReader(file)}


def write(cells: dict[str, object]) -> None:
    new = not TABLE.is_file()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(
            {k: f"{v:.4f}" if isinstance(v, float) and k != "budget_hu" else v for k, v in cells.items()}
        )


def measure(name: str, scan: Scan, data: Path, cache: Path) -> None:
    opened = open_target(name, data / "obelisk" / FILES[name], CLASS_NAMES)
    target = opened.model.for_case(scan.case).to(scan.image.device)
    clean = np.zeros(0)
    for change in changes():
        key, started = (name, *map(str, change)), time.perf_counter()
        kept = cache / f"{name}-{change.file}"
        if key in done() and kept.is_file():
            clean = np.load(kept)["prediction"] if change.kind == "clean" else clean
            continue
        image = changed(target, scan, change)
        with torch.no_grad():
            prediction = target(image).argmax(1)[0].cpu().numpy().astype(np.int8)
        clean = prediction if change.kind == "clean" else clean
        np.savez_compressed(kept, image=image[0, 0].cpu().numpy(), prediction=prediction)
        if key not in done():
            write(dict(zip(KEYS, key, strict=True)) | row(scan, image, prediction, clean))
        print(*key, f"{time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201


def table() -> str:
    """The rows of docs/obelisk.csv as the docs show them."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    organs = [n for n in CLASS_NAMES[1:] if n != "esophagus"]  # the scan holds none
    heads = ["network", "change", "HU", "steps", *organs, "agreement: liver", "all organs"]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    order = {"clean": 0, "sign noise": 1, "pgd": 2}

    def place(r: dict[str, str]) -> tuple[str, int, float, int, int]:
        return r["network"], order[r["change"]], float(r["budget_hu"]), int(r["steps"]), int(r["seed"])

    for r in sorted(rows, key=place):
        named = r["change"] + (f", seed {r['seed']}" if r["change"] == "sign noise" else "")
        scores = [r[f"dice {n}"] for n in organs] + [r["agreement_liver"], r["agreement_organs"]]
        budget, steps = f"{float(r['budget_hu']):g}", r["steps"] if r["change"] == "pgd" else ""
        cells = [r["network"], named, budget, steps, *(f"{float(x):.2f}" for x in scores)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_page() -> None:
    """Put the table between its markers in the page."""
    page = HERE / "foundation_models.md"
    before, start, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{start}\n{table()}\n{end}{after}")


def draw(scan: Scan, cache: Path, name: str = "obelisk_unet") -> None:
    """One slice with what the U-Net sees in it, clean, under noise and under every budget of PGD that is kept."""
    plane = planes(np.diag([3.0, 3.0, 3.0, 1.0]))[0]
    width, height = plane.size_mm(scan.label.shape, (3.0, 3.0, 3.0))
    extent = (0, width, height, 0)
    pgd = [Change("pgd", budget, STEPS) for budget in sorted(BUDGETS_HU)]
    shown = [Change("clean"), Change("sign noise", BUDGETS_HU[0]), *pgd]
    kept = [(c, np.load(file)) for c in shown if (file := cache / f"{name}-{c.file}").is_file()]
    columns = [
        (f"{c.kind} {c.budget_hu:g} HU" if c.budget_hu else c.kind, file["image"], file["prediction"])
        for c, file in kept
    ]
    columns.append(("labels", scan.image[0, 0].numpy(), scan.label))
    with settings():
        figure = new_figure(2.1 * len(columns), 4.6)
        axes = figure.subplots(2, len(columns), subplot_kw={"xticks": [], "yticks": []})
        for column, (title, image, labels) in enumerate(columns):
            for row_number, axis in enumerate(axes[:, column]):
                axis.imshow(plane.cut(image, SLICE), extent=extent, cmap="gray", vmin=0, vmax=1)
                axis.spines[:].set_visible(False)
                if row_number:
                    paint_labels(axis, plane.cut(labels, SLICE), extent, alpha=0.5)
            axes[0, column].set_title(title)
        handles = [Patch(**legend_style(k), label=n) for k, n in enumerate(CLASS_NAMES) if k]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        (drawn,) = save(figure, HERE / "figures" / "obelisk", ("png",), dpi=110)
    compress(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("obelisk-cache"))
    parser.add_argument("--figure", action="store_true", help="draw from --cache, measure nothing")
    parser.add_argument("--device", default="cpu", help="where the networks run")
    parser.add_argument("--networks", nargs="+", choices=list(FILES), default=list(FILES))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    scan = read_scan(options.data)
    if not options.figure:
        for name in options.networks:
            there = replace(scan, image=scan.image.to(options.device))
            measure(name, there, options.data, options.cache)
    write_page()
    draw(scan, options.cache)


if __name__ == "__main__":
    main()
