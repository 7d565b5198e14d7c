"""Tables: pure functions of the records, the same bytes for the same records.

Every mean is over the applicable classes of a case, then over cases (several seeds of one case are averaged
first, so that a case stays the unit of the bootstrap). CSV files hold the unrounded numbers; Markdown and
LaTeX are rounded views of them.

Sums that reach a CSV avoid matrix products: their last bits depend on the processor, and the committed tables
are compared byte by byte.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import views
from .best import best_models
from .coverage import row_problems
from .excerpt import readme_with_excerpt
from .records import Records, load_records
from .sanity.store import KEYS as CHECK_KEYS
from .sanity.store import load_flags, load_warnings
from .statistics import bootstrap_intervals
from .success_tables import FILES as SUCCESS_FILES
from .success_tables import render as render_success
from .summary import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

Frame = Any  # a pandas object inside this module; pandas types its results as unions too wide to check

COLUMNS = (
    *("dataset", "protocol", "surrogate", "target", "attack", "n_cases"),
    *("dice_clean", "dice_adv", "dice_adv_low", "dice_adv_high"),
    *("hd95_clean_mm", "hd95_adv_mm", "nsd_clean", "nsd_adv"),
    *("missing", "hallucinated", "failed", "linf", "l2", "psnr", "ssim"),
    *("forwards", "backwards", "seconds", "flags"),
)
MEASURED_COLUMNS = ("seconds",)  # differ from run to run; everything else is determined by the inputs
CLEAN_INCOMPLETE = "clean-incomplete"  # flag: some scored case has no clean record, so clean means are empty
PAGE = "index.html"  # below the results folder

_TEXT = ("dataset", "protocol", "surrogate", "target", "attack", "flags")
_COUNTS = ("n_cases", "missing", "hallucinated", "failed")
_KEYS = ["dataset", "protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack"]
_TARGET_CASE = ["dataset", "protocol", "target", "target_sha256", "case"]
_METRICS = ["dice", "hd95_mm", "nsd"]
_COSTS = ["l2", "psnr", "ssim", "forwards", "backwards", "seconds"]
_FILES = (
    *(f"{name}.{suffix}" for name in ("white_box", "transfer") for suffix in ("csv", "md", "tex")),
    *("summary.md", "summary.tex"),
    *SUCCESS_FILES,
)


def white_box(records: Records, checks: DataFrame | None = None) -> DataFrame:
    """Rows where the attacked checkpoint is the scored one.

    Args:
        records: what :func:`robustvox.benchmark.records.load_records` read.
        checks: what :func:`robustvox.benchmark.sanity.store.load_flags` read; None for no flags of checks.

    Returns:
        One row per dataset, protocol, model and attack, sorted, columns :data:`COLUMNS`: Dice, NSD and SSIM
        in 0..1, HD95 in mm, L-inf (the largest over cases) and L2 in intensity units, PSNR in dB (mean over
        the cases that changed), ``seconds``, ``forwards`` and ``backwards`` per case, the others counts.

    Example:
        >>> from pathlib import Path
        >>> white_box(load_records(Path("no/such/folder"))).columns[:3].tolist()
        ['dataset', 'protocol', 'surrogate']
    """
    table, same = _table(records, checks)
    return table[same].reset_index(drop=True)


def transfer(records: Records, checks: DataFrame | None = None) -> DataFrame:
    """Rows where another checkpoint was attacked than the one scored; otherwise as :func:`white_box`."""
    table, same = _table(records, checks)
    return table[~same].reset_index(drop=True)


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
        such rows exist, of the success rates, :data:`robustvox.benchmark.success_tables.FILES`, of ``index.html``
        where there is any dataset, and of the README beside the folder if it has markers for the excerpt.

    Raises:
        RecordsError: if records or outcomes of checks are damaged.
    """
    from .page import render_page  # Jinja2, which a single table does not need

    files, boards, tables = {}, [], {}
    for source, records in (load_all(results) if loaded is None else loaded).items():
        folder = source.parent
        cases = per_case(records)
        table, same = _table(records, load_flags(folder / "checks"), cases)
        boards.append(_board(folder, records, cases, table, same))
        files |= render_success(folder, records)
        marks = best_models(_named(cases, records))
        for name, part in (("white_box", table[same]), ("transfer", table[~same])):
            if name == "white_box" or len(part):
                files[folder / f"{name}.csv"] = _csv(part)
                files[folder / f"{name}.md"] = views.markdown(part, marks)
                files[folder / f"{name}.tex"] = views.latex(part, marks)
        summary = Summary(table[same], marks)
        files |= {folder / "summary.md": summary.markdown(), folder / "summary.tex": summary.latex()}
        tables[folder.name] = table[same]
    if boards:
        files[Path(results) / PAGE] = render_page(boards)
    readme = Path(results).resolve().parent / "README.md"
    if readme.is_file():
        files |= readme_with_excerpt(readme, tables)
    return files


def write(results: Path, *, readme: bool = False) -> None:
    """Write every file of :func:`render`, and remove tables that the records no longer imply.

    Args:
        results: folder with one ``<dataset>/records`` folder per dataset.
        readme: also write the README beside it; a run does not touch that file.
    """
    results = Path(results)
    rendered = {path: text for path, text in render(results).items() if readme or results in path.parents}
    for path, text in rendered.items():
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_bytes(text.encode("utf-8"))
        os.replace(unfinished, path)
    # Only beside records: a file of that name anywhere else is somebody's own.
    tables = {path.parent for path in rendered if path.parent.parent == results}
    stale = {folder / name for folder in tables for name in _FILES} | {results / PAGE}
    for path in stale - rendered.keys():
        path.unlink(missing_ok=True)


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
    for folder, records in loaded.items():
        problems += row_problems(folder, records)
    return problems


def _table(records: Frame, checks: Frame = None, cases: Frame = None) -> tuple[Frame, Frame]:
    """All rows, and which of them are white-box; ``cases`` are those of :func:`per_case`, if at hand."""
    cases = per_case(records) if cases is None else cases
    attacked = cases[cases["attack"] != "none"]
    clean = cases[cases["attack"] == "none"].groupby(_TARGET_CASE, as_index=False)[_METRICS].mean()
    attacked = attacked.merge(clean, "left", _TARGET_CASE, suffixes=("_adv", "_clean"), indicator="clean")
    attacked["clean"] = attacked["clean"] == "both"
    attacked = attacked.sort_values([*_KEYS, "case"], kind="stable", ignore_index=True)
    groups = attacked.groupby(_KEYS)
    adversarial, unharmed = ([f"{name}_{side}" for name in _METRICS] for side in ("adv", "clean"))
    rows = groups[[*adversarial, *unharmed, *_COSTS]].mean()
    rows[["missing", "hallucinated"]] = groups[["missing", "hallucinated"]].sum()
    rows["linf"] = groups["linf"].max()
    rows["n_cases"] = groups.size()
    rows["dice_adv_low"], rows["dice_adv_high"] = _intervals(attacked["dice_adv"], groups.ngroup(), rows)
    incomplete = ~groups["clean"].all().astype(bool)
    rows.loc[incomplete, unharmed] = np.nan
    rows["flags"] = _flags(records, rows.index[incomplete], checks)
    failures = records.failures[records.failures["attack"] != "none"]
    rows = rows.join(failures.groupby(_KEYS)["case"].nunique().rename("failed"), how="outer").reset_index()
    rows[list(_COUNTS)] = rows[list(_COUNTS)].fillna(0).astype("int64")
    rows["flags"] = rows["flags"].astype(object).where(rows["flags"].notna(), "")
    rows = rows.rename(columns={f"hd95_mm_{side}": f"hd95_{side}_mm" for side in ("adv", "clean")})
    rows["white_box"] = (rows["surrogate"] == rows["target"]) & (
        rows["surrogate_sha256"] == rows["target_sha256"]
    )
    rows = _named(rows, records).sort_values(
        [*COLUMNS[:5], "surrogate_sha256", "target_sha256"], kind="stable", ignore_index=True
    )
    return rows[list(COLUMNS)], rows["white_box"].astype(bool)


def per_case(records: Frame) -> Frame:
    """One row per case of every dataset, protocol, surrogate, target (by checkpoint) and attack.

    Means over classes, then over seeds, and counts of class-cases.
    """
    units = records.costs[[*_KEYS, "case", "seed", "unit", "linf", *_COSTS]]
    units = units.sort_values([*_KEYS, "case", "seed"], kind="stable")
    scores = records.scores[["unit", "class_id", *_METRICS, "status"]].merge(
        units[[*_KEYS, "case", "seed", "unit"]], on="unit"
    )
    # A fixed order before every sum: the records' own order must not reach the last bit.
    scores = scores.sort_values([*_KEYS, "case", "seed", "class_id"], kind="stable")
    units = units.merge(scores.groupby("unit")[_METRICS].mean(), "left", left_on="unit", right_index=True)
    groups = units.groupby([*_KEYS, "case"])
    cases = groups[[*_METRICS, *_COSTS]].mean()
    cases["linf"] = groups["linf"].max()
    # Over several seeds a class-case counts once.
    for status in ("missing", "hallucinated"):
        affected = scores[scores["status"] == status].drop_duplicates([*_KEYS, "case", "class_id"])
        cases[status] = affected.groupby([*_KEYS, "case"]).size()
        cases[status] = cases[status].fillna(0).astype("int64")
    return cases.reset_index()


def _intervals(values: Frame, group: Frame, rows: Frame) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap intervals of the mean over cases, per row.

    Rows with equally many cases share the resampled indices, so their means are compared in pairs.
    """
    low, high = np.full((2, len(rows)), np.nan)
    valid = values.notna().to_numpy()
    value, group_of = values.to_numpy()[valid], group.to_numpy()[valid]
    sizes = np.bincount(group_of, minlength=len(rows)) if len(rows) else np.empty(0, int)
    for size in np.unique(sizes[sizes > 0]):
        chosen = np.flatnonzero(sizes == size)
        low[chosen], high[chosen] = bootstrap_intervals(value[sizes[group_of] == size].reshape(-1, size))
    mean = rows["dice_adv"].to_numpy()
    # With equal values the resampled mean may differ from the mean in the last bit.
    return np.minimum(low, mean), np.maximum(high, mean)


def _flags(records: Frame, incomplete: Frame, checks: Frame) -> Frame:
    """Sorted union of the flags of each group, joined by semicolons."""
    from pandas import concat

    flags = records.costs[[*_KEYS, "flags"]].explode("flags").dropna(subset="flags")
    if checks is not None and len(checks):
        # Checks know the surrogate and the attack, whatever the target.
        found = records.costs[_KEYS].drop_duplicates().merge(checks, on=list(CHECK_KEYS))
        flags = concat([flags, found[[*_KEYS, "flags"]]])
    flags = concat([flags, incomplete.to_frame(index=False).assign(flags=CLEAN_INCOMPLETE)])
    flags = flags.drop_duplicates().sort_values([*_KEYS, "flags"])
    return flags.groupby(_KEYS)["flags"].agg(";".join)


def _named(rows: Frame, records: Frame) -> Frame:
    """A copy in which names that stand for several checkpoints are ``name@hash``."""
    from pandas import MultiIndex, concat

    roles = [
        frame[["dataset", role, f"{role}_sha256"]].set_axis(["dataset", "name", "sha256"], axis=1)
        for frame in (records.costs, records.failures)
        for role in ("surrogate", "target")
    ]
    several: Frame = concat(roles).drop_duplicates().value_counts(["dataset", "name"])
    several = several[several > 1].index
    rows = rows.copy()
    for role in ("surrogate", "target"):
        ambiguous = MultiIndex.from_frame(rows[["dataset", role]]).isin(several)
        short = rows[f"{role}_sha256"].str[:8].replace("", "unknown")
        rows[role] = rows[role].where(~ambiguous, rows[role] + "@" + short)
    return rows


def _board(folder: Path, records: Frame, cases: Frame, table: Frame, same: Frame) -> Any:
    """What the page shows of a dataset, models named as in its tables."""
    from .page import Board, load_sources

    hashes = ["unit", "surrogate_sha256", "target_sha256"]
    classes = records.scores.merge(records.costs[hashes], on="unit")
    frames = {"cases": cases, "classes": classes, "failures": records.failures}
    return Board(
        folder=folder.name,
        white_box=table[same],
        transfer=table[~same],
        outcomes=load_warnings(folder / "checks"),
        sources=load_sources(folder / "records"),
        **{k: _named(frame.assign(stored=frame["surrogate"]), records) for k, frame in frames.items()},
    )


def _csv(table: Frame) -> str:
    """Unrounded; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    safe = table.copy()
    for name in _TEXT:
        safe[name] = [
            views.printable(f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell)
            for cell in table[name]
        ]
    return safe.to_csv(index=False, lineterminator="\n")
