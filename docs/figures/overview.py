"""The README's picture: one phantom case, clean and attacked, as slices with the network's segmentation.

pip install -e ".[docs]" && python docs/figures/overview.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap

from robustvox.attacks import PGD, VAFA
from robustvox.benchmark.loading import ZOO
from robustvox.benchmark.metrics import score
from robustvox.datasets import open_dataset
from robustvox.models import SlidingWindow, load_checkpoint

# Okabe-Ito, told apart by color-blind readers.
COLORS = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442"]
SLICE, CASE, MODEL = 15, "val_001", "unet"


def main() -> None:
    data = open_dataset("phantom")
    volume = data.load(CASE)
    checkpoint = load_checkpoint(ZOO / "phantom" / f"{MODEL}.safetensors")
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size, sw_batch_size=4)
    clean = torch.from_numpy(volume.image)[None]
    labels = torch.from_numpy(volume.label.astype(np.int64))[None, None]
    attacks = {"PGD 8/255": PGD(), "VAFA q_max 20": VAFA()}
    columns = {"clean": clean} | {name: attack(predictor, clean, labels) for name, attack in attacks.items()}

    figure, axes = plt.subplots(3, 4, figsize=(11, 6.2), layout="constrained")
    aspect = volume.spacing_mm[1] / volume.spacing_mm[0]
    view = {"origin": "lower", "aspect": aspect, "interpolation": "nearest"}
    palette = ListedColormap(["none", *COLORS])

    def show(axis, image, **style):
        # Axis 0 runs to the patient's right; flipped, the right side is on the left, as radiologists look at it.
        axis.imshow(image[::-1, :, SLICE].T, **view, **style)
        axis.set_xticks([])
        axis.set_yticks([])

    for column, (name, images) in enumerate(columns.items()):
        with torch.no_grad():
            prediction = predictor(images).argmax(1)[0].numpy()
        dice = score(prediction, volume.label, num_classes=8, spacing_mm=volume.spacing_mm)["dice"].mean()
        image, delta = images[0, 0].numpy(), (images - clean)[0, 0].numpy()
        show(axes[0, column], image, cmap="gray", vmin=0, vmax=1)
        show(axes[1, column], image, cmap="gray", vmin=0, vmax=1)
        show(axes[1, column], prediction, cmap=palette, vmin=0, vmax=7, alpha=0.6)
        show(axes[2, column], delta * 255, cmap="RdBu_r", vmin=-24, vmax=24)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(f"mean Dice {dice:.2f}")
        axes[2, column].set_xlabel(
            f"L2 {np.linalg.norm(delta):.1f}, Linf {np.abs(delta).max() * 255:.0f}/255"
        )
    show(axes[0, 3], volume.image[0], cmap="gray", vmin=0, vmax=1)
    show(axes[1, 3], volume.image[0], cmap="gray", vmin=0, vmax=1)
    show(axes[1, 3], volume.label, cmap=palette, vmin=0, vmax=7, alpha=0.6)
    axes[0, 3].set_title("reference")
    axes[2, 3].axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in COLORS]
    axes[2, 3].legend(
        handles, [n.replace("_", " ") for n in data.class_names[1:]], loc="center", frameon=False
    )
    for axis, text in zip(axes[:, 0], ("image", f"{MODEL} sees", "change (gray levels)"), strict=True):
        axis.set_ylabel(text)
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=110)


if __name__ == "__main__":
    main()
