"""From a finished run to its file; whatever goes wrong here is a warning, the run is done."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ..specs.program import program
from .facts import Run, facts

if TYPE_CHECKING:
    from rich.console import Console


_DPI = 130


def announce(console: Console, run: Run) -> None:
    """Write the report and the viewer it links to and print where; a failure is one line and loses nothing."""
    for what, write in (("viewer", write_viewer), ("report", write_report)):
        try:
            path = write(run)
        except Exception as error:  # noqa: BLE001 - records and tables are written, the report must not undo that
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            console.print(f"[yellow]warning[/yellow] no {what}: {escape(reason)}", soft_wrap=True)
        else:
            if path is not None:
                console.print(f"{what}: {escape(str(path))}", soft_wrap=True)


def write_report(run: Run) -> Path:
    """Write ``<out>/<dataset>/reports/<time>-<id>.html`` under a name of its own and return the path."""
    text = render_report(run)
    folder, stem = run.reports, run.stem
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = folder / (f"{stem}.html" if attempt == 1 else f"{stem}-{attempt}.html")
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(
        f"expected a free name like {stem}.html in {folder}, found 999 taken; remove old ones"
    )


def write_viewer(run: Run) -> Path | None:
    """Write the case whose slices the report shows as ``view_<time>-<id>_<case>.html`` beside it; None without one."""
    from ..records.volumes import case_slug
    from .viewer.page import render_viewer
    from .viewer.volumes import Attacked, scene_of

    pair = run.pair
    if pair is None:
        return None
    clean, attacked = pair
    html = render_viewer(scene_of(Attacked.of(run.bench.plan, clean, attacked)))
    run.reports.mkdir(parents=True, exist_ok=True)
    path = run.reports / f"view_{run.stem}_{case_slug(attacked.job.case)}.html"
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(html)
    return path


def render_report(run: Run) -> str:
    """The page; pictures are left out, with the reason, where they cannot be made."""
    found = facts(run)
    figures, missing = _figures(run)
    return page(figures=figures, missing=missing, **found)


def page(**context: Any) -> str:
    """The template with everything it needs; see :func:`robustvox.benchmark.report.facts.facts`."""
    from markupsafe import Markup

    from ..show.html import environment, policy

    here = Path(__file__).resolve().parent
    style = (here / "report.css").read_text(encoding="utf-8")
    template = environment(here).get_template("report.html.j2")
    return template.render(**context, style=Markup(style), policy=policy([style]))


def _figures(run: Run) -> tuple[list[dict[str, str]], str]:
    """Pictures as data URIs for a light and a dark page, with their captions, and why one is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return [], 'figures need matplotlib: pip install "matplotlib>=3.8"'
    from ..show.figures.canvas import DARK, encode, repaint
    from ..show.figures.slices import slice_figure
    from .examples import make_example

    pair = run.pair
    if pair is None:
        return [], (
            "No slices: this process attacked no 3D volume of up to 2^23 voxels whose clean prediction it has. "
            f"{program()} figures and view show any case."
        )
    clean, attacked = pair
    example = make_example(run.bench.plan, clean, attacked)
    caption = (
        f"Case {attacked.job.case}, {example.title.partition('  ·  ')[2]}: mean Dice {example.dice_clean:.3f} before "
        f"and {example.dice_adversarial:.3f} after the attack."
    )
    figure = slice_figure(example)
    pictures = {"light": _source(encode(figure, "png", _DPI))}
    repaint(figure, DARK)
    pictures["dark"] = _source(encode(figure, "png", _DPI))
    alt = "Axial, coronal and sagittal slices: images, perturbation, its spectrum, reference, predictions. "
    return [{**pictures, "caption": caption, "alt": alt + caption}], ""


def _source(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
