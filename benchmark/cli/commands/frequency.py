"""The ``frequency`` command: from what was asked to tables and a curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ...harness.bench import Bench
from ...harness.faults import CASE_FAILURES, reason_of, require_folder
from ...plan.build import build_plan
from ...records.patients import note_patients
from ...records.sources import claim
from ...specs.names import printable
from ...specs.requests import FrequencyRequest
from ...specs.spec import UsageError, match, parse_value
from ...studies.frequency.bands import CUTS, KINDS, PUBLISHED, RESCALE, Band, bands
from ...studies.frequency.study import study
from ...studies.frequency.tables import COLUMNS, GROUP, HEADINGS, Frame, keep, merge, rounded, title_of, write
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress
from .fitted_table import fitted_table


def study_frequencies(request: FrequencyRequest) -> int:
    """Attack, filter, score again, print and write; 0 when everything is done, 1 when some cases failed.

    Raises:
        UsageError: for any name, edge, path or combination that cannot be.
    """
    console = make_console()
    chosen = choose_bands(request.kinds, request.cuts)
    scalings = [match(r, RESCALE, "--rescale") for r in request.rescale] or ["none"]
    require_folder(request.out)
    plan = build_plan(request.crossing, request.computing, request.out)
    claim(request.out, plan.dataset)
    folder = request.out / plan.dataset.name / "frequency"
    note_patients(folder, plan.dataset, plan.cases)
    jobs = [job for job in plan.jobs() if not job.clean]
    bench, failures = Bench(plan), list(plan.refused)
    measured: Frame = pd.DataFrame(columns=list(COLUMNS))
    with progress(f"{plan.dataset.name}: frequencies", len(jobs)) as bar:
        for job in jobs:
            try:
                rows = pd.DataFrame([*study(bench, job, chosen, scalings)], columns=list(COLUMNS))
                # After every job, so that a kill loses one; what follows from the cases, at the end.
                keep(folder, rows)
                measured = merge(measured, rows)
            except UsageError:
                raise
            except CASE_FAILURES as error:
                failures.append(f"{plan.dataset.name} {job.case}: {reason_of(error)}")
            bar.update(bar.task_ids[0], advance=1)
    if len(measured):
        table = write(folder)
        _show(console, table, measured)
        console.print(f"{_draw(folder, table)} in {escape(str(folder))}", soft_wrap=True)
    for line in failures:
        console.print(f"[red]failed[/red] {escape(line)}", soft_wrap=True)
    return SOME_FAILED if failures else DONE


def choose_bands(kinds: Sequence[str], cuts: str) -> list[Band]:
    """The bands that ``--bands`` and ``--cuts`` mean; by default all kinds."""
    chosen = [match(kind, KINDS, "--bands") for kind in kinds] or KINDS
    edges = [parse_value(text.strip()) for text in cuts.split(",")] if cuts else list(CUTS)
    if not all(isinstance(edge, int | float) for edge in edges):
        raise UsageError(f"expected --cuts as numbers like 8/96,16/96, got {cuts!r}")
    try:
        return [
            b for kind in dict.fromkeys(chosen) for b in bands(kind, PUBLISHED if kind == "cube" else edges)
        ]
    except ValueError as error:
        raise UsageError(f"--cuts: {error}") from error


def _show(console, table: Frame, measured: Frame) -> None:
    """What this call measured, on the terminal."""
    mine = table.merge(measured[[*GROUP, "rescale"]].drop_duplicates(), on=[*GROUP, "rescale"])
    for _, rows in mine.groupby([*GROUP, "rescale"], sort=False):
        console.print(fitted_table(console, printable(title_of(rows.iloc[0])), HEADINGS, rounded(rows)))


def _draw(folder: Path, table: Frame) -> str:
    """Write the figures; what was written, in words."""
    from ...studies.frequency.curve import draw

    return f"tables and {len(draw(folder, table))} figures"
