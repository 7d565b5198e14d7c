"""The files below ``results/``: written, and compared with what their records imply."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..records.coverage import orphans, row_problems
from ..records.model_labels import Labels
from ..records.organs import read_organs
from ..records.outcomes import load_flags, load_warnings
from ..records.reading import Frame, Records, load_records
from ..records.sources import is_published
from ..records.states import load_states
from ..records.submission import published_problems
from ..records.suite import admitted, impostors
from ..records.writing import replace_file
from ..specs.suites import SUITES
from .budgets import overruns
from .excerpt import PROTOCOL, with_excerpts
from .model_labels import relabelled, shown_labels
from .page.ranking import rank
from .tables import views
from .tables.best import best_models
from .tables.cases import per_case, with_hashes
from .tables.markup import csv_text
from .tables.results import all_rows
from .tables.success import FILES as SUCCESS_FILES
from .tables.success import render as render_success
from .tables.summary import Summary

PAGE = "index.html"  # below the results folder


_FILES = (
    *(f"{name}.{suffix}" for name in ("white_box", "transfer") for suffix in ("csv", "md", "tex")),
    *("summary.md", "summary.tex"),
    *SUCCESS_FILES,
)


def load_all(results: Path) -> dict[Path, Records]:
    """The records of every ``<dataset>/records`` folder, by folder, sorted.

    Raises:
        RecordsError: if records are damaged.
    """
    return {path: load_records(path) for path in sorted(Path(results).glob("*/records")) if path.is_dir()}


def render(results: Path, loaded: Mapping[Path, Records] | None = None) -> dict[Path, str]:
    """Every table file that the records under ``results`` imply, by path; nothing is written.

    Args:
        results: folder with one ``<dataset>/records`` folder per dataset.
        loaded: what :func:`load_all` read there, if at hand.

    Returns:
        Text of ``white_box.csv|md|tex`` and ``summary.md|tex`` per dataset, of ``transfer.csv|md|tex`` where
        such rows exist, of the success rates, :data:`robustvox.benchmark.show.tables.success.FILES`, of ``index.html``
        where there is any dataset, and of the README beside the folder if it has markers for the excerpt.

    Raises:
        RecordsError: if records or outcomes of checks are damaged.
    """
    from .page import load_notes, render_page

    files, boards, tables = {}, [], {}
    for source, recorded in (load_all(results) if loaded is None else loaded).items():
        folder, labels = source.parent, shown_labels(source, recorded)
        records = relabelled(recorded, labels)
        cases = per_case(records)
        checks = folder / "checks"
        table, same = all_rows(records, load_flags(checks), cases, load_states(checks))
        boards.append(_board(folder, records, cases, table, same, labels))
        files |= render_success(folder, records)
        marks, notes = best_models(with_hashes(cases, records)), load_notes(source)
        for name, part in (("white_box", table[same]), ("transfer", table[~same])):
            if name == "white_box" or len(part):
                said = (*notes, *views.uneven(part))
                files[folder / f"{name}.csv"] = csv_text(part, views.TEXT)
                files[folder / f"{name}.md"] = views.markdown(part, marks, said)
                files[folder / f"{name}.tex"] = views.latex(part, marks, said)
        summary = Summary(table[same], marks, (*notes, *views.counted(table[same])))
        files |= {folder / "summary.md": summary.markdown(), folder / "summary.tex": summary.latex()}
        tables[folder.name] = table[same]
    if boards:
        files[Path(results) / PAGE] = render_page(boards)
    beside = Path(results).resolve().parent
    if (beside / "README.md").is_file():
        places = {board.folder: rank(board, PROTOCOL).places for board in boards}
        files |= with_excerpts(beside, tables, places)
    return files


def write(results: Path, *, readme: bool = False) -> dict[Path, Records]:
    """Write every file of :func:`render`, and remove tables that the records no longer imply.

    Args:
        results: folder with one ``<dataset>/records`` folder per dataset.
        readme: also write the README and the page of results beside it; a run does not touch these.

    Returns:
        What they follow from, as :func:`load_all` read it.
    """
    results = Path(results)
    loaded = load_all(results)
    rendered = {
        path: text for path, text in render(results, loaded).items() if readme or results in path.parents
    }
    for path, text in rendered.items():
        replace_file(path, text)
    # Only beside records: a file of that name anywhere else is somebody's own.
    tables = {path.parent for path in rendered if path.parent.parent == results}
    stale = {folder / name for folder in tables for name in _FILES} | {results / PAGE}
    for path in stale - rendered.keys():
        path.unlink(missing_ok=True)
    return loaded


def check(results: Path) -> list[str]:
    """Compare the table files under ``results`` with what their records imply.

    Returns:
        One unified diff per file that is missing, differs, or has no records behind it, then one line per row
        that is not what it says or that its run must have written; empty when all agree.
    """
    from .page import readable

    loaded = load_all(results)
    rendered = render(results, loaded)
    present = {path for name in _FILES for path in Path(results).glob(f"*/{name}")}
    present |= set(Path(results).glob(PAGE))
    present |= {path for path in rendered if path.is_file()}
    problems = []
    for path in sorted(rendered.keys() | present):
        committed = path.read_bytes().decode("utf-8", "replace") if path in present else None
        expected = rendered.get(path)
        if committed != expected:
            before, after = committed or "", expected or ""
            if path.name == PAGE and readable(before) != readable(after):
                before, after = readable(before), readable(after)
            lines = difflib.unified_diff(
                before.split("\n"),
                after.split("\n"),
                f"{path} (committed)" if path in present else f"{path} (missing)",
                f"{path} (from the records)" if path in rendered else f"{path} (no records behind it)",
                n=0,
                lineterm="",
            )
            problems.append("\n".join(lines) or f"{path}: empty, no records behind it")
    problems += published_problems(results)
    for folder, records in loaded.items():
        problems += row_problems(folder, records)
        problems += impostors(folder, records)
        if is_published(results):
            problems += [*orphans(folder, records), *overruns(folder, records)]
    return problems


def load_board(folder: Path) -> Any:
    """What a page would show of one dataset.

    Args:
        folder: ``<dataset>`` with ``records`` below.
    """
    recorded = load_records(folder / "records")
    labels = shown_labels(folder / "records", recorded)
    records = relabelled(recorded, labels)
    cases = per_case(records)
    checks = folder / "checks"
    table, same = all_rows(records, load_flags(checks), cases, load_states(checks))
    return _board(folder, records, cases, table, same, labels)


def _board(folder: Path, records: Frame, cases: Frame, table: Frame, same: Frame, labels: Labels) -> Any:
    """What the page shows of a dataset, models named as in its tables."""
    from .page import Board, load_entries, load_notes, load_pictures, load_sources

    hashes = ["unit", "surrogate_sha256", "target_sha256"]
    classes = records.scores.merge(records.costs[hashes], on="unit")
    frames = {"cases": cases, "classes": classes, "failures": records.failures}
    names = {(label, sha256): name for (name, sha256), label in labels.items()}

    def stored(frame: Frame) -> list[Any]:
        pairs = zip(frame["surrogate"], frame["surrogate_sha256"], strict=True)
        return [names.get(pair, pair[0]) for pair in pairs]

    board = Board(
        folder=folder.name,
        white_box=table[same],
        transfer=table[~same],
        outcomes=load_warnings(folder / "checks"),
        sources=load_sources(folder / "records"),
        organs=read_organs(folder),
        pictures=load_pictures(folder),
        notes=load_notes(folder / "records"),
        ranked=with_hashes(_suited(records, cases), records),
        checks=load_states(folder / "checks"),
        **{k: with_hashes(frame.assign(stored=stored(frame)), records) for k, frame in frames.items()},
    )
    models = {shown: (board.stored.get(shown, shown), sha256) for shown, sha256 in board.sha256.items()}
    return replace(board, entries=load_entries(folder.parent, board.name, models))


def _suited(records: Records, cases: Frame) -> Frame:
    """The cases of the rows that the suite of their protocol admits; ``cases`` are all."""
    from pandas import concat

    admitted_rows = (admitted(records, suite) for suite in SUITES.values())
    parts = [per_case(rows) for rows in admitted_rows if len(rows.costs)]
    return concat(parts, ignore_index=True) if parts else cases[:0]
