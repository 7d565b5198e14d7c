"""What a training with a defence has to tell: robust Dice on the way, which weights were kept, and what it cost."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from ..training.train import Trained
from ..training.watch import STEPS, Look


def described(trained: Trained) -> Iterator[str]:
    """A line for each look, and what they mean; nothing for a training without any.

    Yields:
        Plain text.
    """
    if not trained.looks:
        return
    chosen = trained.card.recipe["selected"]["step"]
    for look in trained.looks:
        mark = "  kept" if look.step == chosen else ""
        yield (
            f"step {look.step:5d}: Dice {look.clean:.3f} clean, {look.fgsm:.3f} FGSM, {look.pgd:.3f} PGD-{STEPS}{mark}"
        )
    gradients = trained.gradients
    yield (
        f"{gradients.outer} gradients of windows for the weights, {gradients.inner} for attacks, "
        f"{trained.seconds:.0f} s"
    )
    if trained.overfitted:
        yield (
            "warning: FGSM leaves much more than PGD: catastrophic overfitting; give the attack inside more steps"
        )


def write_training_report(folder: Path, name: str, trained: Trained) -> Path:
    """Write the looks as ``NAME.csv`` and draw them as ``NAME.png``; the path of the picture.

    Args:
        folder: made if it is not there.
        name: of the model.
        trained: with at least one look.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Look)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _short(v) for k, v in asdict(look).items()} for look in trained.looks)
    return draw_training(folder / f"{name}.png", name, trained)


def _short(value: float) -> float | int:
    return round(value, 4) if isinstance(value, float) else value


def draw_training(path: Path, name: str, trained: Trained) -> Path:
    """Clean and robust Dice over the steps; a ring around the look whose weights are kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    steps = [look.step for look in trained.looks]
    chosen = next(look for look in trained.looks if look.step == trained.card.recipe["selected"]["step"])
    for key, label, color in (
        ("clean", "clean", "#444444"),
        ("fgsm", "FGSM", "#2f7fbf"),
        ("pgd", f"PGD-{STEPS}", "#c0392b"),
    ):
        axes.plot(
            steps, [getattr(look, key) for look in trained.looks], "-o", ms=3.5, color=color, label=label
        )
    axes.plot([chosen.step], [chosen.pgd], "o", ms=10, mfc="none", color="#c0392b", label="kept")
    axes.set(xlabel="optimizer steps", ylabel="mean foreground Dice", ylim=(0, 1), title=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=4, loc="lower right")
    figure.savefig(path, metadata={"Software": None})
    return path
