"""Segmentations over images: fill and outline, told apart by color and by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes


CLASS_COLORS = (
    *OKABE_ITO,
    *("#780F4B", "#0000FF", "#78FFFF", "#3C2D96", "#9669FF", "#4B5A00", "#69D296", "#B42D78", "#D20FC3"),
)
"""Of classes 1 to 16. Those after the seventh are the farthest from all before them that are neither gray, black nor
white, one after another, in OKLab as people see them with all, without red and without green cones."""


def class_style(class_id: int) -> tuple[str, str]:
    """Color and line style of a class; sixteen colors, and a broken or dotted outline after the seventh and fourteenth.

    Example:
        >>> len({class_style(k)[0] for k in range(1, 17)}), len({class_style(k) for k in range(1, 22)})
        (16, 21)
    """
    styles = ("solid", (0, (2, 1)), (0, (1, 0.8)))
    color = CLASS_COLORS[(class_id - 1) % len(CLASS_COLORS)]
    return color, styles[(class_id - 1) // len(OKABE_ITO) % len(styles)]  # type: ignore[return-value]


def legend_style(class_id: int) -> Mapping[str, Any]:
    """What a matplotlib Patch takes to look like a filled class."""
    from matplotlib.colors import to_rgba

    color, line = class_style(class_id)
    return {"facecolor": to_rgba(color, 0.35), "edgecolor": color, "linestyle": line, "linewidth": 1.0}


def paint_labels(
    axes: Axes, labels: np.ndarray, extent: Sequence[float], alpha: float = 0.35, linewidth: float = 0.9
) -> None:
    """Fill and outline every class of a slice, outlines along the borders of voxels.

    Args:
        axes: shows an image of the same ``extent`` already.
        labels: ``(rows, columns)`` class ids, first row on top.
        extent: left, right, bottom, top of the slice in the units of the axes.
        alpha: opacity of the fill.
        linewidth: of the outlines, points.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import PathPatch

    fill = np.zeros((*labels.shape, 4))
    for class_id in np.unique(labels[labels != 0]):
        color, line = class_style(int(class_id))
        mask = labels == class_id
        fill[mask] = to_rgba(color, alpha)
        axes.add_patch(
            PathPatch(outline(mask, extent), fill=False, edgecolor=color, linestyle=line, linewidth=linewidth)
        )
    axes.imshow(fill, extent=tuple(extent), interpolation="nearest")  # type: ignore[arg-type]


def outline(mask: np.ndarray, extent: Sequence[float]) -> Any:
    """The border of a mask along voxel sides, as one matplotlib path of straight pieces.

    Args:
        mask: ``(rows, columns)`` bool, first row on top.
        extent: left, right, bottom, top.
    """
    from matplotlib.path import Path

    padded = np.pad(mask, 1)
    pieces = []
    for transposed in (False, True):
        grid = padded.T if transposed else padded
        # Between row r - 1 and r there is a border wherever the two differ; runs become one piece.
        border = np.pad(grid[1:, 1:-1] != grid[:-1, 1:-1], ((0, 0), (1, 1))).astype(np.int8)
        change = np.diff(border, axis=1)
        (row, start), (_, stop) = np.nonzero(change == 1), np.nonzero(change == -1)
        ends = np.stack([np.stack([start, row], -1), np.stack([stop, row], -1)], axis=1)
        pieces.append(ends[..., ::-1] if transposed else ends)
    corners = np.concatenate(pieces).reshape(-1, 2).astype(float)
    left, right, bottom, top = extent
    corners *= ((right - left) / mask.shape[1], (bottom - top) / mask.shape[0])
    return Path(corners + np.array([left, top]), np.tile([Path.MOVETO, Path.LINETO], len(corners) // 2))
