"""The ``data`` command: is a user's copy of a dataset complete and sound?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from robustvox.datasets import ALIASES, TASK_NAMES, Dataset, DatasetError
from robustvox.datasets.verify import FOUND, MISSING, REFUSED, CaseReport, verify

from ...plan.cases import load_dataset
from ...specs.spec import UsageError, match
from .console import make_console, progress

DONE, SOME_FAILED = 0, 1


SHOWN = 10
"""Problems printed per kind; the JSON of ``--out`` has all."""


def verify_data(
    name: str,
    data_root: Path | None,
    *,
    splits: Sequence[str] = (),
    download: bool = False,
    out: Path | None = None,
) -> int:
    """Read every case, print a table per split, and keep the findings in ``out``.

    Returns:
        0 when every case is there and usable, 1 when some are not.

    Raises:
        UsageError: unknown dataset or split, nothing there at all, or ``out`` cannot be written.
    """
    if download:
        _download(name, data_root)
    dataset = load_dataset(name, data_root)
    chosen = _splits(dataset, splits)
    reports: list[CaseReport] = []
    with progress(f"{dataset.name}: verify", sum(len(dataset.splits[s]) for s in chosen)) as bar:
        for report in verify(dataset, chosen):
            reports.append(report)
            bar.update(bar.task_ids[0], advance=1, description=escape(f"{dataset.name} {report.id}"))
    _show(dataset, chosen, reports)
    if out is not None:
        _write(out, dataset, reports)
    return DONE if all(r.status == FOUND for r in reports) else SOME_FAILED


def _download(name: str, data_root: Path | None) -> None:
    known = {**{task: task for task in TASK_NAMES}, **{a: n for a, n in ALIASES.items() if n in TASK_NAMES}}
    try:
        key = known[match(name, known, "dataset with --download")]
    except UsageError as error:
        raise UsageError(
            f"{error}; only tasks of the Medical Segmentation Decathlon can be downloaded"
        ) from None
    if data_root is None:
        raise UsageError("expected a folder to download to, found none; give --data-root DIR")
    from robustvox.datasets.decathlon import download

    try:
        download(key, data_root)
    except DatasetError as error:
        raise UsageError(str(error)) from error


def _splits(dataset: Dataset, wanted: Sequence[str]) -> list[str]:
    """Splits to verify: those named, else all but the union of the others."""
    if wanted:
        return list(dict.fromkeys(match(name, dataset.splits, "split") for name in wanted))
    return [name for name in dataset.splits if name != "all"]


def _show(dataset: Dataset, splits: Sequence[str], reports: Sequence[CaseReport]) -> None:
    console = make_console()
    table = Table(
        title=escape(dataset.name), title_justify="left", box=None, padding=(0, 1), header_style="bold"
    )
    table.add_column("split")
    for column in ("cases", FOUND, MISSING, REFUSED):
        table.add_column(column, justify="right")
    for column in ("shape", "spacing mm", "axes", "labels"):
        table.add_column(column, overflow="fold")
    for split in splits:
        mine = [r for r in reports if r.split == split]
        count = Counter(r.status for r in mine)
        found = [r for r in mine if r.status == FOUND]
        table.add_row(
            escape(split),
            str(len(mine)),
            *(str(count[status]) for status in (FOUND, MISSING, REFUSED)),
            _range([r.shape for r in found], "d"),
            _range([r.spacing_mm for r in found], ".3g"),
            " ".join(sorted({r.orientation for r in found})) or "-",
            _labels(dataset, found),
        )
    console.print(table)
    for status in (MISSING, REFUSED):
        broken = [r for r in reports if r.status == status]
        for report in broken[:SHOWN]:
            console.print(f"[red]{status}[/red] {escape(report.problem)}", soft_wrap=True)
        if len(broken) > SHOWN:
            console.print(f"{len(broken) - SHOWN} more {status}; --out FILE keeps all")
    console.print(
        escape(f"preparation: {dataset.provenance.get('preprocessing', 'unknown')}"), soft_wrap=True
    )


def _range(values: Sequence[tuple[float, ...]], form: str) -> str:
    """Least and greatest of each component."""
    columns = list(zip(*values, strict=True)) if len({len(v) for v in values}) == 1 else []
    ranges = [(min(c), max(c)) for c in columns]
    return " x ".join(f"{a:{form}}" if a == b else f"{a:{form}}..{b:{form}}" for a, b in ranges) or "-"


def _labels(dataset: Dataset, found: Sequence[CaseReport]) -> str:
    """Which classes occur at all, and which never do."""
    seen = {label for report in found for label in report.labels}
    absent = [escape(n) for k, n in enumerate(dataset.class_names) if k not in seen]
    if not found:
        return "-"
    return f"{len(seen)} of {len(dataset.class_names)}" + (f", never {', '.join(absent)}" if absent else "")


def _write(out: Path, dataset: Dataset, reports: Sequence[CaseReport]) -> None:
    findings = {
        "dataset": dataset.name,
        "classes": list(dataset.class_names),
        "provenance": dict(dataset.provenance),
        "cases": [asdict(report) for report in reports],
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(findings, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"expected to write --out {out}, found {error}; choose another file") from error
