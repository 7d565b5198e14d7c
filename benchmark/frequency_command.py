"""The ``frequency`` command: the low/high-frequency study of an attack, as tables and a curve.

``results/<dataset>/frequency/cases.csv`` has a row per case and band and is the only thing that is measured;
``bands.csv|md`` and the figures follow from it. A row measured again replaces the old one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.markup import escape
from rich.table import Table

from robustvox.datasets import Volume

from .attack_view import truncate
from .console import brief, make_console, progress
from .frequency import (
    CUTS,
    KINDS,
    PUBLISHED,
    RESCALE,
    Band,
    bands,
    energy_share,
    filter_perturbation,
)
from .harness import CASE_FAILURES, CaseCache, Job, Plan, craft, predict
from .loading import NamedModel
from .running import DONE, SOME_FAILED, RunRequest, build_plan
from .scoring import Scorer
from .specs import UsageError, match, parse_value
from .statistics import bootstrap_intervals

Frame = Any  # a pandas object inside this module; pandas types its results as unions too wide to check

WHOLE = Band("whole", 0.0, float("inf"))
GROUP = ["dataset", "protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack"]
BAND = ["rescale", "kind", "band", "low", "high"]
_ORDER = ("whole", "low", "high", "cube", "radial")
COLUMNS = (*GROUP, "seed", "case", *BAND, "share", "energy", "linf", "l2", "dice_clean", "dice_adv", "dice")


@dataclass(frozen=True, kw_only=True)
class FrequencyRequest:
    """The command line of ``frequency`` as written; ``run`` says what is attacked, or which files are read."""

    run: RunRequest
    kinds: tuple[str, ...] = ()
    cuts: str = ""
    rescale: tuple[str, ...] = ()


def study_frequencies(request: FrequencyRequest) -> int:
    """Attack, filter, score again, print and write; 0 when everything is done, 1 when some cases failed.

    Raises:
        UsageError: for any name, edge, path or combination that cannot be.
    """
    console = make_console()
    chosen = choose_bands(request.kinds, request.cuts)
    scalings = [match(r, RESCALE, "--rescale") for r in request.rescale] or ["none"]
    plan = build_plan(request.run)
    folder = request.run.out / plan.dataset.name / "frequency"
    jobs = [job for job in plan.jobs() if not job.clean]
    load, failures = CaseCache(plan), list(plan.refused)
    measured: Frame = pd.DataFrame(columns=list(COLUMNS))
    table: Frame = measured
    with progress(f"{plan.dataset.name}: frequencies", len(jobs)) as bar:
        for job in jobs:
            try:
                volume, _, scorer = load(job.case)
                rows = [
                    row
                    for target in job.targets
                    for row in study(plan, job, target, volume, scorer, chosen, scalings)
                ]
                measured = merge(measured, pd.DataFrame(rows, columns=list(COLUMNS)))
                # After every job, so that a kill loses one.
                table = write(folder, measured)
            except UsageError:
                raise
            except CASE_FAILURES as error:
                failures.append(f"{plan.dataset.name} {job.case}: {' '.join(str(error).split())}")
            bar.update(bar.task_ids[0], advance=1)
    if len(measured):
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


def study(
    plan: Plan,
    job: Job,
    target: NamedModel,
    volume: Volume,
    scorer: Scorer,
    chosen: Sequence[Band],
    scalings: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """A row per band and scaling of one adversarial volume on one target, the whole perturbation first."""
    image, _, _ = craft(plan, job, volume)
    unit = plan.unit(job, target, "")
    # What another model sees under this protocol, as in a run.
    truncated = plan.protocol.uint8 and unit.surrogate_sha256 != target.sha256
    perturbation = image[0].cpu().numpy().astype(np.float64) - volume.image
    unharmed = _mean_dice(scorer, plan.clean(plan, target, volume))
    same = {name: getattr(unit, name) for name in (*GROUP, "seed", "case")}
    scored: dict[bytes, dict[str, Any]] = {}
    attacked = float("nan")
    for rescale in scalings:
        for band in (WHOLE, *chosen):
            mask = np.ones(volume.label.shape, bool) if band is WHOLE else band.mask(volume.label.shape)
            key = rescale.encode() + hashlib.sha256(np.packbits(mask).tobytes()).digest()
            # The published cubes and the low bands share members; each is predicted once.
            if key not in scored:
                part = None if mask.all() else mask
                image = _filtered(volume, perturbation, part, rescale).to(plan.device)
                image = truncate(image) if truncated else image
                scored[key] = {
                    **_norms(volume, perturbation, part, image),
                    "dice": _mean_dice(scorer, predict(target, image)),
                }
            if band is WHOLE:
                attacked = scored[key]["dice"]
            edges = {
                "rescale": rescale,
                "kind": band.kind,
                "band": _name(band),
                "low": band.low,
                "high": band.high,
            }
            share = float(np.count_nonzero(mask)) / mask.size
            yield {
                **same,
                **edges,
                "share": share,
                "dice_clean": unharmed,
                "dice_adv": attacked,
                **scored[key],
            }


def _name(band: Band) -> str:
    return "all" if band is WHOLE else band.name


def _mean_dice(scorer: Scorer, prediction: np.ndarray) -> float:
    dice: Any = scorer(prediction)["dice"]
    return float(dice.mean())


def _filtered(volume: Volume, whole: np.ndarray, mask: np.ndarray | None, rescale: str) -> torch.Tensor:
    """The volume ``(1, C, *spatial)`` with one part of the perturbation, clipped to [0, 1]."""
    scaled = whole if mask is None else filter_perturbation(whole, mask, rescale=rescale)
    return torch.from_numpy(np.clip(volume.image + scaled, 0.0, 1.0).astype(np.float32))[None]


def _norms(
    volume: Volume, whole: np.ndarray, mask: np.ndarray | None, image: torch.Tensor
) -> dict[str, float]:
    """Energy of one part, and the norms of what is scored."""
    part = whole if mask is None else filter_perturbation(whole, mask)
    change = image[0].cpu().numpy().astype(np.float64) - volume.image
    return {
        "energy": energy_share(part, whole),
        "linf": float(np.abs(change).max()),
        "l2": float(np.linalg.norm(change)),
    }


def merge(old: Frame, new: Frame) -> Frame:
    """Rows of both, sorted; of two for the same case and band the new one."""
    both: Frame = pd.concat([frame for frame in (old, new) if len(frame)] or [old])
    identity = [*GROUP, "seed", "case", "rescale", "kind", "band"]
    both = both.drop_duplicates(identity, keep="last")
    order = both["kind"].map({kind: place for place, kind in enumerate(_ORDER)})
    both = both.assign(order=order).sort_values(
        [*GROUP, "rescale", "seed", "case", "order", "low", "high"], kind="stable", ignore_index=True
    )
    return both[list(COLUMNS)]


def read_cases(path: Path) -> Frame:
    """The rows of ``cases.csv`` bit by bit, which pandas' own parser of numbers does not promise."""
    text: Frame = pd.read_csv(path, dtype=str, keep_default_na=False)[list(COLUMNS)]
    for name in COLUMNS[COLUMNS.index("low") :]:
        text[name] = [float(cell) if cell else float("nan") for cell in text[name]]
    return text.astype({"seed": "int64"})


def summarize(cases: Frame) -> Frame:
    """A row per attack and band: means over cases, with the 95% bootstrap interval of the Dice.

    ``effect`` is the share of the attack's loss of Dice that the band alone causes; empty where the attack loses
    less than 0.01.
    """
    numbers: Any = list(COLUMNS[-7:])
    per_case = cases.groupby([*GROUP, *BAND, "case"], as_index=False, sort=False)[numbers].mean()
    rows = []
    for identity, group in per_case.groupby([*GROUP, *BAND], sort=False):
        dice = group["dice"].dropna().to_numpy()
        low, high = bootstrap_intervals(dice[None]) if len(dice) else (np.array([np.nan]), np.array([np.nan]))
        means = group[numbers].mean().to_dict()
        loss = means["dice_clean"] - means["dice_adv"]
        effect = (means["dice_clean"] - means["dice"]) / loss if loss >= 0.01 else float("nan")
        interval = {"dice_low": float(low[0]), "dice_high": float(high[0]), "effect": effect}
        count = {"n_cases": len(group)}
        rows.append({**dict(zip([*GROUP, *BAND], identity, strict=True)), **count, **means, **interval})
    return pd.DataFrame(rows)


def write(folder: Path, measured: Frame) -> Frame:
    """Add the rows to ``cases.csv``, derive ``bands.csv|md`` from it, and return all bands."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cases.csv"
    try:
        cases = merge(read_cases(path), measured) if path.exists() else merge(measured, measured)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"expected the rows of `frequency` in {path}, found {error}; remove the file"
        ) from error
    table = summarize(cases)
    texts = {
        "cases.csv": cases.to_csv(index=False, lineterminator="\n"),
        "bands.csv": table.to_csv(index=False, lineterminator="\n"),
        "bands.md": _markdown(table),
    }
    for name, text in texts.items():
        unfinished = folder / f".{name}.tmp"
        unfinished.write_text(text, encoding="utf-8", newline="")
        os.replace(unfinished, folder / name)
    return table


_HEADINGS = ("band (1/96)", "share", "energy", "L-inf (1/255)", "L2", "Dice (95% interval)", "effect")


def _view(rows: Frame) -> list[list[str]]:
    """Rounded cells of the bands of one attack."""
    return [
        [
            row["band"],
            f"{100 * row['share']:.3g}%",
            f"{100 * row['energy']:.1f}%",
            f"{255 * row['linf']:.1f}",
            f"{row['l2']:.2f}",
            f"{row['dice']:.3f} ({row['dice_low']:.3f} to {row['dice_high']:.3f})",
            "-" if np.isnan(row["effect"]) else f"{round(100 * row['effect'])}%",
        ]
        for row in rows.to_dict("records")
    ]


def _title(row: Frame) -> str:
    on = (
        row["surrogate"]
        if row["surrogate"] == row["target"]
        else f"{row['surrogate']}, scored on {row['target']}"
    )
    scaled = (
        "" if row["rescale"] == "none" else f", every band rescaled to the {row['rescale']} norm of the whole"
    )
    under = "" if row["protocol"] == RunRequest.protocol else f" under {row['protocol']}"
    return (
        f"{brief(row['attack'])} on {on}: {row['n_cases']} cases of {row['dataset']}{under}, clean Dice "
        f"{row['dice_clean']:.3f}, attacked {row['dice_adv']:.3f}{scaled}"
    )


def _markdown(table: Frame) -> str:
    parts = []
    for _, rows in table.groupby([*GROUP, "rescale"], sort=False):
        lines = [_HEADINGS, ["---", *["---:"] * (len(_HEADINGS) - 1)], *_view(rows)]
        body = "".join(f"| {' | '.join(line).replace('<', '&lt;')} |\n" for line in lines)
        parts.append(f"## {_title(rows.iloc[0])}\n\n{body}")
    return "\n".join(parts)


def _show(console, table: Frame, measured: Frame) -> None:
    """What this call measured, on the terminal."""
    mine = table.merge(measured[[*GROUP, "rescale"]].drop_duplicates(), on=[*GROUP, "rescale"])
    for _, rows in mine.groupby([*GROUP, "rescale"], sort=False):
        title = escape(_title(rows.iloc[0]))
        view = Table(title=title, title_justify="left", box=None, padding=(0, 1), header_style="bold")
        for number, heading in enumerate(_HEADINGS):
            view.add_column(heading, justify="right" if number else "left", no_wrap=True)
        for cells in _view(rows):
            view.add_row(*map(escape, cells))
        console.print(view)


def _draw(folder: Path, table: Frame) -> str:
    """Write the figures; what was written, in words."""
    from .figures.frequency import draw

    return f"tables and {len(draw(folder, table))} figures"
