"""The picture of docs/marking.md: one phantom case, clean and with three marks, as slices with the network's segmentation.

python docs/figures/marking.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from robustvox.attacks import Key, KeyedMark
from robustvox.benchmark.metrics.scores import score
from robustvox.benchmark.show.figures.canvas import new_figure, save, settings
from robustvox.benchmark.show.figures.labels import paint_labels
from robustvox.benchmark.show.figures.planes import planes
from robustvox.datasets import open_dataset
from robustvox.models import ZOO, SlidingWindow, load_checkpoint

SLICE, CASE, MODEL = 15, "val_001", "unet"
STEPS, PLACES = 8, 12
MARKS = {
    "field 16/255": KeyedMark(steps=STEPS),
    "field, 10 mm off the organs": KeyedMark(steps=STEPS, support="outside", margin_mm=10.0),
    "logo": KeyedMark(kind="logo", steps=PLACES, margin_mm=0.0),
}


def main() -> None:
    data = open_dataset("phantom")
    volume = data.load(CASE)
    checkpoint = load_checkpoint(ZOO / "phantom" / f"{MODEL}.safetensors")
    predictor = SlidingWindow(checkpoint.network, checkpoint.card.roi_size, sw_batch_size=4)
    clean = torch.from_numpy(volume.image)[None]
    labels = torch.from_numpy(volume.label.astype(np.int64))[None, None]
    key, salt = Key(b"the key of a picture"), bytes(16)
    columns = {"clean": clean} | {
        name: mark.at_spacing(volume.spacing_mm)(
            predictor, clean, labels, generator=key.generator(salt, volume.id)
        )
        for name, mark in MARKS.items()
    }
    plane = planes(volume.affine)[0]
    width, height = plane.size_mm(volume.label.shape, volume.spacing_mm)
    extent = (0, width, height, 0)
    figure = new_figure(9.4, 5.2)
    axes = figure.subplots(3, 4, subplot_kw={"xticks": [], "yticks": []})

    def show(axis, image, index, labels=None, **style):
        axis.imshow(plane.cut(image, index), extent=extent, interpolation="nearest", **style)
        axis.spines[:].set_visible(False)
        if labels is not None:
            paint_labels(axis, plane.cut(labels, index), extent, alpha=0.5)

    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    for column, (name, images) in enumerate(columns.items()):
        with torch.no_grad():
            prediction = predictor(images).argmax(1)[0].numpy()
        dice = score(prediction, volume.label, num_classes=8, spacing_mm=volume.spacing_mm)["dice"].mean()
        image, delta = images[0, 0].numpy(), (images - clean)[0, 0].numpy()
        # A logo is in a few slices; its column shows the one where it is largest.
        index = SLICE
        if name == "logo":
            index = max(range(delta.shape[2]), key=lambda i: np.abs(plane.cut(delta, i)).sum())
        show(axes[0, column], image, index, **gray)
        show(axes[1, column], image, index, prediction, **gray)
        limit = 153 if name == "logo" else 24
        show(axes[2, column], delta * 255, index, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel(f"mean Dice {dice:.2f}")
        axes[2, column].set_xlabel(f"Linf {np.abs(delta).max() * 255:.0f}/255")
    for row, text in enumerate(("image", "prediction", "difference")):
        axes[row, 0].set_ylabel(text)
    save(figure, Path(__file__).with_suffix(""), ("png",), dpi=130)


if __name__ == "__main__":
    with settings():
        main()
