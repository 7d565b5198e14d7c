"""What all figures share: settings that no user's matplotlibrc changes, colors, and bytes that repeat."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...specs.spec import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FORMATS = ("png", "svg", "pdf")


DPI = 200


OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442")
"""Told apart by color-blind readers (Okabe and Ito 2008), without black."""


_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))


# Pale yellow vanishes as a line on white.
_LINE_COLORS = (*OKABE_ITO[:6], "#000000")


_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "robustvox",
    "font.family": "DejaVu Sans",  # shipped with matplotlib, so text has the same size everywhere
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "text.parse_math": False,  # names are text, whatever signs they hold
    "axes.unicode_minus": True,
}


class Theme(NamedTuple):
    """Colors of a figure's paper and of what is written on it."""

    back: str
    text: str
    soft: str


LIGHT = Theme("white", "black", "0.25")
DARK = Theme("#16181b", "#e8e8e8", "#c0c4c9")
"""As the pages that hold the figure."""


class LineStyle(NamedTuple):
    """How one of many lines is told apart, in color and in gray."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]]


def require_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        UsageError: with the command that installs it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError('figures: expected matplotlib, found none; pip install "matplotlib>=3.8"') from error


@contextmanager
def settings() -> Iterator[None]:
    """Our settings instead of the user's while a figure is made or saved."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def repaint(figure: Figure, theme: Theme) -> None:
    """Give a figure that was drawn as :data:`LIGHT` the paper and the ink of another theme.

    What is written on the paper changes: texts, ticks, frames. What is drawn, images above all, stays as it is.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    inks = {to_rgba(LIGHT.text): theme.text, to_rgba(LIGHT.soft): theme.soft}
    figure.set_facecolor(theme.back)
    for text in figure.findobj(Text):
        text.set_color(inks.get(to_rgba(text.get_color()), text.get_color()))
    for spine in figure.findobj(Spine):
        spine.set_edgecolor(inks.get(to_rgba(spine.get_edgecolor()), spine.get_edgecolor()))
    for axis in itertools.chain.from_iterable((axes.xaxis, axes.yaxis) for axes in figure.axes):
        for tick in axis.get_ticklines():
            tick.set_markeredgecolor(
                inks.get(to_rgba(tick.get_markeredgecolor()), tick.get_markeredgecolor())
            )


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """An empty figure of ``width`` x ``height`` inches on the Agg canvas; call inside :func:`settings`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    # Without pyplot nobody has told a notebook how to show it.
    figure._repr_png_ = lambda: encode(figure, "png", dpi=110)  # type: ignore[attr-defined]
    return figure


def encode(figure: Figure, kind: str, dpi: int = DPI) -> bytes:
    """The file of a figure: same figure, same matplotlib, same bytes (no date, no random ids).

    Args:
        figure: what a function of this package returned.
        kind: one of :data:`FORMATS`.
        dpi: pixels per inch, also of images inside vector formats.
    """
    dateless = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    stream = io.BytesIO()
    with settings():
        figure.savefig(stream, format=kind, dpi=dpi, metadata=dateless[kind], facecolor="auto")
    return stream.getvalue()


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg"), dpi: int = DPI) -> list[Path]:
    """Write ``<stem>.png``, ``<stem>.svg``, ... and return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: a stem may hold dots (eps=0.03).
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in formats}
    # Drawing moves the layout in its last bits, which a bitmap does not show: it comes last.
    for kind in sorted(formats, key="png".__eq__):
        paths[kind].write_bytes(encode(figure, kind, dpi))
    return list(paths.values())


def line_style(index: int) -> LineStyle:
    """Color, marker and dashes of line ``index``; the first 77 differ in color or marker.

    Example:
        >>> len({line_style(i)[:2] for i in range(77)})
        77
    """
    lines = len(_LINE_COLORS)
    return LineStyle(
        _LINE_COLORS[index % lines], _MARKERS[index % len(_MARKERS)], _LINES[index // lines % len(_LINES)]
    )


def arrange(panels: int, most: int = 4) -> tuple[int, int]:
    """Rows and columns of a grid, as even as ``most`` columns allow.

    Example:
        >>> arrange(5), arrange(3)
        ((2, 3), (1, 3))
    """
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def quiet_grid(axes: Axes) -> None:
    """Light horizontal lines behind the data."""
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def dice_limits(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits that hold all values, on tenths, within 0..1.

    Example:
        >>> dice_limits([0.53, 0.88])
        (0.5, 0.9)
    """
    import numpy as np

    finite = np.asarray(values, float)[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.floor(finite.min() * 10) / 10, np.ceil(finite.max() * 10) / 10
    return float(max(low, 0.0)), float(min(max(high, low + 0.1), 1.0))
