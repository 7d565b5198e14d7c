"""The ``data`` command: is a user's copy of a dataset complete and sound?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustvox.datasets import ALIASES, TASK_NAMES, Dataset, DatasetError
from robustvox.datasets.entries import FOLD
from robustvox.datasets.verify import FOUND, MISSING, REFUSED, CaseReport, verify

from ...harness.scoring import prepare_scorer
from ...plan.cases import load_dataset, require_cases
from ...records.organs import write_organs
from ...specs.names import printable
from ...specs.spec import UsageError, match
from ..codes import DONE, SOME_FAILED
from .console import escape, make_console, progress
from .fitted_table import fitted_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SHOWN = 10
"""Problems printed per kind; the JSON of ``--out`` has all."""

LISTED = 40
"""Cases printed per split."""

AIR = -500.0
"""Percentiles on both sides of it are those of a CT with air around the patient."""

_FOLDED = ("shape", "spacing mm", "axes", "labels")
_CT_HINT = (
    "hint: intensities around -1000 look like CT, which is mapped by percentiles here; a channel named CT in the JSON "
    "beside the list (docs/what_is_read.md) is windowed in HU"
)


def verify_data(
    name: str,
    data_root: Path | None,
    *,
    splits: Sequence[str] = (),
    download: bool = False,
    out: Path | None = None,
    organs: Path | None = None,
) -> int:
    """Read every case as a run does, print per split what it is and becomes, and keep the findings in ``out``.

    ``organs`` is a results folder: how large the organs are is written there, for the page.

    Returns:
        0 when every case is there and usable, 1 when some are not.

    Raises:
        UsageError: unknown dataset or split, nothing there at all, nothing to score, or ``out`` cannot be written.
    """
    if download:
        _download(name, data_root)
    dataset = load_dataset(name, data_root)
    chosen = _splits(dataset, splits)
    reports: list[CaseReport] = []
    with progress(f"{dataset.name}: verify", sum(len(dataset.splits[s]) for s in chosen)) as bar:
        for report in verify(dataset, chosen, partial(prepare_scorer, dataset)):
            reports.append(report)
            bar.update(bar.task_ids[0], advance=1, description=escape(f"{dataset.name} {report.id}"))
    console = make_console()
    _show(console, dataset, chosen, reports)
    if out is not None:
        _write(out, dataset, reports)
    if organs is not None:
        sizes = [dict(zip(r.labels, r.millilitres, strict=True)) for r in reports if r.status == FOUND]
        console.print(f"{write_organs(organs / dataset.name, dataset.class_names, sizes)}")
    if not splits:
        # A run takes this split where it is told no other.
        require_cases(dataset, "validation")
    console.print(_verdict(splits, chosen, reports))
    return DONE if all(r.status == FOUND for r in reports) else SOME_FAILED


def _verdict(splits: Sequence[str], chosen: Sequence[str], reports: Sequence[CaseReport]) -> str:
    """How many cases a run would score, all of the split being asked for."""
    scored = list(chosen) if splits else ["validation"]
    usable = {r.id for r in reports if r.split in scored and r.status == FOUND}
    listed = {r.id for r in reports if r.split in scored}
    refused = f", and refuse {len(listed) - len(usable)}" if len(usable) < len(listed) else ""
    cases = "case" if len(usable) == 1 else "cases"
    return f"a run would score {len(usable)} {cases} (--split {' '.join(scored)} --cases all){refused}"


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
    """Splits to verify: those named, else all but the union of the others and the folds of training.

    Raises:
        UsageError: a split that is named is unknown or empty, or there is nothing in any of them.
    """
    names = list(dict.fromkeys(match(name, dataset.splits, "split") for name in wanted))
    for name in names:
        require_cases(dataset, name)
    if names:
        return names
    own = [name for name in dataset.splits if name != "all" and not name.startswith(FOLD)]
    if not any(len(dataset.splits[name]) for name in own):
        require_cases(dataset, "validation")
    return own


def _show(console: Console, dataset: Dataset, splits: Sequence[str], reports: Sequence[CaseReport]) -> None:
    rows = []
    for split in splits:
        mine = [r for r in reports if r.split == split]
        count = Counter(r.status for r in mine)
        found = [r for r in mine if r.status == FOUND]
        rows.append(
            (
                printable(split),
                str(len(mine)),
                *(str(count[status]) for status in (FOUND, MISSING, REFUSED)),
                _range([r.shape for r in found], "d"),
                _range([r.spacing_mm for r in found], ".3g"),
                _all(r.orientation for r in found),
                _labels(dataset, found),
            )
        )
    headings = ("split", "cases", FOUND, MISSING, REFUSED, *_FOLDED)
    console.print(fitted_table(console, printable(dataset.name), headings, rows, fold=len(_FOLDED)))
    for split in splits:
        found = [r for r in reports if r.split == split and r.status == FOUND]
        if found:
            console.print(_cases(console, split, found))
            if len(found) > LISTED:
                console.print(
                    f"{len(found) - LISTED} more cases in {split}; --out FILE keeps all", markup=False
                )
    for status in (MISSING, REFUSED):
        broken = [r for r in reports if r.status == status]
        for report in broken[:SHOWN]:
            console.print(f"[red]{status}[/red] {escape(report.problem)}", soft_wrap=True)
        if len(broken) > SHOWN:
            console.print(f"{len(broken) - SHOWN} more {status}; --out FILE keeps all")
    for line in (
        f"preparation: {dataset.provenance.get('preprocessing', 'unknown')}",
        f"split: {dataset.provenance.get('split', 'as made')}",
    ):
        console.print(escape(line), soft_wrap=True)
    if any(_looks_like_ct(r) for r in reports):
        console.print(_CT_HINT, soft_wrap=True, markup=False)


def _cases(console: Console, split: str, found: Sequence[CaseReport]) -> RenderableType:
    """What a run would do with every case of a split."""
    headings = ("case", "spacing mm", "from", "unit", "axes", "scored as", "window per channel", "nonzero")
    rows = []
    for report in found[:LISTED]:
        shape, spacing, axes = report.scored
        rows.append(
            (
                printable(report.id),
                _range([report.spacing_mm], ".3g"),
                report.spacing_source,
                report.unit,
                report.orientation,
                f"{_range([shape], 'd')}, {_range([spacing], '.3g')} mm, {axes}",
                "; ".join(f"{low:.4g}..{high:.4g} {unit}" for low, high, unit in report.windows),
                ", ".join(f"{share:.1%}" for share in report.nonzero),
            )
        )
    title = f"{printable(split)}: what a run would do"
    return fitted_table(console, title, headings, rows, fold=len(headings) - 1)


def _looks_like_ct(report: CaseReport) -> bool:
    """Air at -1000 or so, in a channel that is mapped by percentiles."""
    return any(unit != "HU" and low < AIR < high for low, high, unit in report.windows)


def _all(values: Iterable[str]) -> str:
    return " ".join(sorted(set(values))) or "-"


def _range(values: Sequence[tuple[float, ...]], form: str) -> str:
    """Least and greatest of each component."""
    columns = list(zip(*values, strict=True)) if len({len(v) for v in values}) == 1 else []
    ranges = [(min(c), max(c)) for c in columns]
    return " x ".join(f"{a:{form}}" if a == b else f"{a:{form}}..{b:{form}}" for a, b in ranges) or "-"


def _labels(dataset: Dataset, found: Sequence[CaseReport]) -> str:
    """Which classes occur at all, and which never do."""
    seen = {label for report in found for label in report.labels}
    absent = [printable(n) for k, n in enumerate(dataset.class_names) if k not in seen]
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
