"""Two models on one case, small enough for a page: the same slice of both, without a word in it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from .canvas import settings
from .labels import paint_labels
from .planes import Plane, most_changed_voxel, planes
from .slices import Example

PANEL = 300
"""Pixels of the longer side of a panel."""


def strip(examples: Sequence[Example], quality: int = 80) -> bytes:
    """A row per example, as WebP: image with reference, clean prediction, attacked image with prediction, change.

    All rows show one slice, that in which the prediction of the last example changes most. The change goes from blue,
    minus the largest of this row, over white to red. Text belongs to the page, which knows the records.

    Args:
        examples: of one case.
        quality: of the WebP, 1..100.

    Raises:
        ValueError: unless the volumes have three spatial axes.
    """
    from PIL import Image

    last = examples[-1]
    if last.reference.ndim != 3:
        raise ValueError(
            f"expected a 3D volume, got shape {last.reference.shape}; slices are shown of 3D volumes only"
        )
    voxel, _ = most_changed_voxel(last.clean_prediction, last.adversarial_prediction, last.reference)
    changed = last.clean_prediction != last.adversarial_prediction
    plane = max(
        planes(last.affine),
        key=lambda p: np.count_nonzero(np.take(changed, voxel[p.through], axis=p.through)),
    )
    drawn = Image.fromarray(
        np.concatenate([_row(example, plane, voxel[plane.through]) for example in examples])
    )
    stream = io.BytesIO()
    drawn.save(stream, format="WEBP", quality=quality, method=6)
    return stream.getvalue()


def _row(example: Example, plane: Plane, index: int) -> np.ndarray:
    """Panels beside each other, ``(height, width, 3)`` uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    delta = example.adversarial.astype(np.float64) - example.image
    channel = int(np.argmax(np.square(delta).sum(axis=(1, 2, 3))))
    across, down = plane.size_mm(example.reference.shape, example.spacing_mm)
    scale = PANEL / max(across, down)
    # Even numbers of pixels: WebP halves the resolution of color.
    width, height = (2 * round(side * scale / 2) for side in (across, down))
    extent = (0.0, across, down, 0.0)
    panels = (
        (example.image[channel], example.reference),
        (example.image[channel], example.clean_prediction),
        (example.adversarial[channel], example.adversarial_prediction),
        (delta[channel], None),
    )
    with settings():
        figure = Figure(figsize=(len(panels) * width / 100, height / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        for column, (volume, labels) in enumerate(panels):
            axes = figure.add_axes((column / len(panels), 0, 1 / len(panels), 1))
            axes.set_axis_off()
            largest = float(np.abs(volume).max()) or 1.0
            colors = ("gray", 0.0, 1.0) if labels is not None else ("RdBu_r", -largest, largest)
            axes.imshow(
                plane.cut(volume, index), cmap=colors[0], vmin=colors[1], vmax=colors[2], extent=extent,
                interpolation="nearest", aspect="auto",
            )  # fmt: skip
            if labels is not None:
                paint_labels(axes, plane.cut(labels, index), extent, linewidth=1.6)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
