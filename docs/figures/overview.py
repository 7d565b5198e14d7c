"""The README's picture: one phantom case, clean and attacked, as slices with the network's segmentation.

python docs/figures/overview.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Patch

from robustvox.attacks import PGD, VAFA
from robustvox.benchmark.metrics.scores import score
from robustvox.benchmark.show.figures.canvas import new_figure, save, settings
from robustvox.benchmark.show.figures.labels import legend_style, paint_labels
from robustvox.benchmark.show.figures.planes import planes
from robustvox.datasets import open_dataset
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

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

    plane = planes(volume.affine)[0]
    width, height = plane.size_mm(volume.label.shape, volume.spacing_mm)
    extent = (0, width, height, 0)
    figure = new_figure(9.4, 5.2)
    axes = figure.subplots(3, 4, subplot_kw={"xticks": [], "yticks": []})

    def show(axis, image, labels=None, **style):
        axis.imshow(plane.cut(image, SLICE), extent=extent, interpolation="nearest", **style)
        axis.spines[:].set_visible(False)
        if labels is not None:
            paint_labels(axis, plane.cut(labels, SLICE), extent, alpha=0.5)

    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    for column, (name, images) in enumerate(columns.items()):
        with torch.no_grad():
            prediction = predictor(images).argmax(1)[0].numpy()
        dice = score(prediction, volume.label, num_classes=8, spacing_mm=volume.spacing_mm)["dice"].mean()
        image, delta = images[0, 0].numpy(), (images - clean)[0, 0].numpy()
        show(axes[0, column], image, **gray)
        show(axes[1, column], image, prediction, **gray)
        show(axes[2, column], delta * 255, cmap="RdBu_r", vmin=-24, vmax=24)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(f"mean Dice {dice:.2f}")
        axes[2, column].set_xlabel(
            f"L2 {np.linalg.norm(delta):.1f}, Linf {np.abs(delta).max() * 255:.0f}/255"
        )
    show(axes[0, 3], volume.image[0], **gray)
    show(axes[1, 3], volume.image[0], volume.label, **gray)
    axes[0, 3].set_title("reference")
    axes[2, 3].axis("off")
    handles = [
        Patch(**legend_style(k), label=n.replace("_", " ")) for k, n in enumerate(data.class_names) if k
    ]
    axes[2, 3].legend(handles=handles, loc="center")
    for axis, text in zip(axes[:, 0], ("image", f"{MODEL} sees", "change (gray levels)"), strict=True):
        axis.set_ylabel(text)
    save(figure, Path(__file__).with_suffix(""), ("png",), dpi=130)


if __name__ == "__main__":
    with settings():
        main()
