"""One attacked case in three planes, as the qualitative figures of the papers show it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import LIGHT, new_figure, settings
from .labels import legend_style, paint_labels
from .perturbation import amplification, color_range, log_mean, spectrum
from .planes import Plane, most_changed_voxel, obliquity_degrees, planes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANEL, TALLEST, GAP = 1.3, 1.9, 0.06
"""Inches: width of a panel, height of the tallest row, space between panels."""


_LETTERS = 165  # of a note that fit into the width


_LEFT, _TOP, _BARS, _LINE = 0.5, 0.62, 0.5, 0.16


_COLUMNS = (
    "clean image",
    "adversarial image",
    "perturbation",
    "its DCT spectrum",
    "reference",
    "clean prediction",
    "adversarial\nprediction",
)


_LABELED = {4: "reference", 5: "clean_prediction", 6: "adversarial_prediction"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """One case before and after an attack.

    Args:
        image, adversarial: what the model saw, on the unit interval.
        reference, clean_prediction, adversarial_prediction: class ids.
        spacing_mm: voxel size per axis.
        affine: voxel to world, mm.
        class_names: one per class id, background first.
        dice_clean, dice_adversarial: mean foreground Dice of the volume, 0..1.
        title: case, model and attack.
        notes: further lines below the figure.

    Shape:
        image, adversarial: ``(C, X, Y, Z)``; of several channels the one that changed most is shown.
        reference, clean_prediction, adversarial_prediction: ``(X, Y, Z)``.
        affine: ``(4, 4)``.
    """

    image: np.ndarray
    adversarial: np.ndarray
    reference: np.ndarray
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray
    spacing_mm: Sequence[float]
    affine: np.ndarray
    class_names: Sequence[str]
    dice_clean: float
    dice_adversarial: float
    title: str
    notes: Sequence[str] = field(default=())


def slice_figure(example: Example, convention: str = "radiological") -> Figure:
    """Rows axial, coronal, sagittal; columns image, adversarial, perturbation, spectrum, reference, predictions.

    All slices go through one voxel, the one where the segmentation changes most; all have the same scale in mm,
    so that anisotropic voxels are not squashed. The perturbation is amplified by a stated factor around gray. The
    spectrum is the magnitude of the 3D DCT-II of the perturbation, averaged along the viewing axis.

    Args:
        example: the case.
        convention: ``"radiological"``, the patient's right on the left, or ``"neurological"``.

    Raises:
        ValueError: unless the volume has three spatial axes, or for an unknown convention.
    """
    if example.reference.ndim != 3:
        raise ValueError(
            f"expected a 3D volume, got shape {example.reference.shape}; slices are shown of 3D volumes only"
        )
    delta = example.adversarial.astype(np.float64) - example.image
    channel = int(np.argmax(np.square(delta).sum(axis=(1, 2, 3))))
    with settings():
        drawing = _Drawing(example, delta[channel], channel, planes(example.affine, convention), convention)
        return drawing.draw()


class _Drawing:
    """The figure while it is drawn: positions in inches from the lower left."""

    def __init__(
        self, example: Example, delta: np.ndarray, channel: int, views: Sequence[Plane], convention: str
    ) -> None:
        self.example, self.delta, self.channel = example, delta, channel
        self.views, self.convention = views, convention
        self.voxel, self.reason = most_changed_voxel(
            example.clean_prediction, example.adversarial_prediction, example.reference
        )
        self.factor = amplification(delta)
        magnitudes = spectrum(delta)
        self.spectra = [log_mean(magnitudes, plane.through) for plane in views]
        self.faintest, self.brightest = color_range(self.spectra)
        sizes = [plane.size_mm(example.reference.shape, example.spacing_mm) for plane in views]
        self.scale = min(PANEL / max(w for w, _ in sizes), TALLEST / max(h for _, h in sizes))
        self.sizes = [(w * self.scale, h * self.scale) for w, h in sizes]
        self.shown = self._classes()

    def draw(self) -> Figure:
        notes = self._notes()
        legend = -(-len(self.shown) // 7) * _LINE + 0.06
        below = _BARS + legend + len(notes) * _LINE + 0.08
        rows = [max(height, 0.8 * PANEL) for _, height in self.sizes]
        width = _LEFT + len(_COLUMNS) * (PANEL + GAP) + 0.06
        height = _TOP + sum(rows) + len(rows) * GAP + below
        self.figure = new_figure(width, height, constrained=False)
        self.width, self.height = width, height
        self._text(0.08, height - 0.1, self.example.title, fontsize=9.0, va="top", fontweight="bold")
        top = height - _TOP
        for row, (plane, tall) in enumerate(zip(self.views, rows, strict=True)):
            middle = top - tall / 2
            self._text(
                0.2,
                middle,
                f"{plane.name}\nvoxel {self.voxel[plane.through]}",
                rotation=90,
                va="center",
                ha="center",
            )
            for column in range(len(_COLUMNS)):
                self._panel(row, column, middle, tall)
            top -= tall + GAP
        for column, name in enumerate(_COLUMNS):
            self._text(self._center(column), height - _TOP + 0.05, name, va="bottom", ha="center")
        self._scores_and_bars(top)
        self._legend(top - _BARS)
        for line, note in enumerate(notes):
            self._text(
                0.08,
                0.08 + (len(notes) - 1 - line) * _LINE,
                note,
                fontsize=7.0,
                color=LIGHT.soft,
                va="bottom",
            )
        return self.figure

    def _panel(self, row: int, column: int, middle: float, tall: float) -> None:
        width, height = self.sizes[row]
        if column == 3:
            width = height = min(PANEL, tall)
        axes = self._axes(self._center(column) - width / 2, middle - height / 2, width, height)
        if column == 3:
            self._spectrum(axes, row)
            return
        example, plane = self.example, self.views[row]
        cut = lambda volume: plane.cut(volume, self.voxel[plane.through])  # noqa: E731
        extent = self._extent(plane)
        attacked = column in (1, 6)
        image = (example.adversarial if attacked else example.image)[self.channel]
        if column == 2:
            amplified = np.clip(cut(self.delta) * self.factor, -0.5, 0.5)
            self.perturbation = axes.imshow(
                amplified, cmap="RdBu_r", vmin=-0.5, vmax=0.5, extent=extent, interpolation="nearest"
            )
        else:
            axes.imshow(cut(image), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        if column in _LABELED:
            paint_labels(axes, cut(getattr(example, _LABELED[column])), extent)
        if column == 0:
            _letters(axes, plane)
            if row == 0:
                self._ruler(axes, extent)

    def _spectrum(self, axes: Axes, row: int) -> None:
        plane = self.views[row]
        values = self.spectra[row]
        values = values.T if plane.down > plane.across else values
        self.coefficients = axes.imshow(
            np.maximum(values, self.faintest),
            cmap="cividis",
            vmin=self.faintest,
            vmax=self.brightest,
            extent=(0, 1, 1, 0),
            aspect="auto",
            interpolation="nearest",
        )
        across = "R-L" if plane.left in "RL" else "A-P"
        down = "A-P" if plane.top in "AP" else "S-I"
        style: dict[str, Any] = {"color": "white", "fontsize": 6.0, "transform": axes.transAxes}
        axes.text(0.97, 0.97, f"{across} →", ha="right", va="top", **style)
        axes.text(0.03, 0.03, f"{down} ↓", ha="left", va="bottom", **style)

    def _scores_and_bars(self, top: float) -> None:
        """Below the columns: what the colors mean, and the Dice of each prediction."""
        for column, dice in ((5, self.example.dice_clean), (6, self.example.dice_adversarial)):
            self._text(
                self._center(column), top - 0.02, f"Dice {dice:.3f}", va="top", ha="center", fontsize=8.5,
                fontweight="bold",
            )  # fmt: skip
        half = 127.5 / self.factor
        bars = (
            (2, self.perturbation, [-0.5, 0, 0.5], [f"−{half:.3g}", "0", f"{half:.3g}"], f"gray levels of 255 (×{self.factor})"),
            (3, self.coefficients, None, None, "log10 of mean |DCT|"),
        )  # fmt: skip
        for column, image, ticks, names, label in bars:
            axes = self._axes(self._center(column) - 0.42 * PANEL, top - 0.14, 0.84 * PANEL, 0.08)
            bar = self.figure.colorbar(image, cax=axes, orientation="horizontal", ticks=ticks)
            bar.outline.set_linewidth(0.4)  # type: ignore[operator]
            axes.tick_params(labelsize=6.0, length=2, pad=1, width=0.4)
            if ticks and names:
                axes.set_xticks(ticks, names)
            axes.set_xlabel(label, fontsize=6.5, labelpad=1)

    def _legend(self, top: float) -> None:
        from matplotlib.patches import Patch

        handles = [Patch(**legend_style(k), label=self._name(k)) for k in self.shown]
        if handles:
            self.figure.legend(
                handles=handles,
                loc="upper left",
                ncols=min(len(handles), 7),
                bbox_to_anchor=(0.08 / self.width, top / self.height),
                borderaxespad=0.0,
                borderpad=0.0,
                handlelength=1.2,
                columnspacing=1.2,
            )

    def _notes(self) -> list[str]:
        voxel = ", ".join(map(str, self.voxel))
        lines = [
            f"Slices {self.reason}: voxel ({voxel}). {self.convention.capitalize()} convention: the patient's "
            + ("right is on the left" if self.convention == "radiological" else "left is on the left")
            + " of axial and coronal slices.",
            f"Perturbation times {self.factor}, clipped. Spectrum: 3D DCT-II of the perturbation, averaged along the "
            "viewing axis, frequency 0 in the upper left corner, Nyquist at the far borders.",
        ]
        angle = obliquity_degrees(self.example.affine)
        if angle > 1.0:
            lines.append(f"Oblique volume: its axes are up to {angle:.0f} degrees off the letters.")
        if len(self.example.image) > 1:
            lines.append(
                f"Channel {self.channel} of {len(self.example.image)} is shown, the one that changed most."
            )
        # A canonical spec has no blanks; it breaks anywhere rather than leave the figure.
        return [part for line in (*lines, *self.example.notes) for part in textwrap.wrap(line, _LETTERS)]

    def _classes(self) -> list[int]:
        example = self.example
        labels = (example.reference, example.clean_prediction, example.adversarial_prediction)
        return sorted({int(k) for volume in labels for k in np.unique(volume)} - {0})

    def _name(self, class_id: int) -> str:
        names = self.example.class_names
        return str(names[class_id]).replace("_", " ") if class_id < len(names) else f"class {class_id}"

    def _extent(self, plane: Plane) -> tuple[float, float, float, float]:
        width, height = plane.size_mm(self.example.reference.shape, self.example.spacing_mm)
        return 0.0, width, height, 0.0

    def _ruler(self, axes: Axes, extent: tuple[float, float, float, float]) -> None:
        """A bar of a round length in mm."""
        from matplotlib.patheffects import withStroke

        length = max((n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= 0.4 * extent[1]), default=1)
        x, y = 0.05 * extent[1], extent[2] - 0.05 * extent[1]
        outline = [withStroke(linewidth=2.5, foreground="black")]
        axes.plot(
            [x, x + length], [y, y], color="white", linewidth=1.5, solid_capstyle="butt", path_effects=outline
        )
        axes.annotate(
            f"{length} mm", (x, y), (0, 2), textcoords="offset points", color="white", fontsize=6.0,
            path_effects=[withStroke(linewidth=1.2, foreground="black")],
        )  # fmt: skip

    def _center(self, column: int) -> float:
        return _LEFT + column * (PANEL + GAP) + PANEL / 2

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes(
            (x / self.width, y / self.height, width / self.width, height / self.height)
        )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / self.width, y / self.height, text, **style)


def _letters(axes: Axes, plane: Plane) -> None:
    from matplotlib.patheffects import withStroke

    places = (
        (0.02, 0.5, plane.left, "left", "center"),
        (0.98, 0.5, plane.right, "right", "center"),
        (0.5, 0.98, plane.top, "center", "top"),
        (0.5, 0.02, plane.bottom, "center", "bottom"),
    )
    for x, y, letter, across, up in places:
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=across, va=up, color="white", fontsize=7.0,
            fontweight="bold", path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )  # fmt: skip
