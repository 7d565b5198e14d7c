"""Excerpts of the leaderboard: tables between markers in the README and on a page of the documentation.

Between one pair of markers stand two whole tables, between another the few columns of a first look. Both are made from the
white-box table of one dataset. Only the README beside the results folder and ``docs/results.md`` beside it are looked at, and
only where they have markers: no folder given with ``--out`` gets a README, and none without markers is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustvox.models import CATALOG as MODELS

from ..metrics.statistics import with_interval
from ..records.reading import Frame
from ..records.states import worst_state
from ..records.unit import RecordsError
from ..specs.defences import split_defence
from ..specs.protocols import DEFAULT_PROTOCOL
from ..specs.suites import find_suite
from .page.ranking import Place
from .tables.markup import markdown_table, markdown_text

START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
BRIEF_START, BRIEF_END = "<!-- ranking:start -->", "<!-- ranking:end -->"
PAGES = ("README.md", "docs/results.md")


UNFINISHED, MARK = "C6:fail", " ‡"
"""The flag of a row whose attack finds more with twice the steps, and what stands behind its Dice."""

NOTE = f"{MARK.strip()} Not converged: the attack finds more with twice the steps (check C6).\n"


DATASET, PROTOCOL, MODEL = "hippocampus", DEFAULT_PROTOCOL, "unet"


_PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=20"


_COSPGD = "cospgd:alpha=2/255,eps=8/255,random_start=true,restarts=1,steps=20"


_VAFA = (
    "vafa:block_size=32,eps=none,hard_rounding=false,loss=dice_ce,q_init=max,q_max=20,q_min=1,renorm=none,"
    "ssim_weight=1,steps=20"
)


COLUMNS = {
    "noise 8/255": "gn:std=8/255",
    "FGSM 8/255": "fgsm:eps=8/255,loss=dice",
    "PGD 4/255": "pgd:alpha=1/255,eps=4/255,loss=dice,random_start=true,restarts=1,steps=20",
    "PGD 8/255": _PGD,
    "CosPGD 8/255": _COSPGD,
    "VAFA 20": _VAFA,
    "VAFA 30": _VAFA.replace("q_max=20", "q_max=30"),
    "ensemble 8/255": "ensemble:eps=8/255",
}
"""Heading of the first table to the whole canonical spec of its attack: a variant beside it is another attack."""


FIRST_LOOK = ("noise 8/255", "PGD 8/255")
"""Columns of the first look, beside the clean Dice and the worst case."""


ATTACKS = {
    "uniform": "uniform:corners=false,eps=8/255",
    "fgsm": "fgsm:eps=8/255,loss=dice",
    "mifgsm": "mifgsm:alpha=2/255,eps=8/255,loss=dice,momentum=1,steps=20",
    "square": "square:eps=8/255,loss=dice,p_init=0.8,queries=1000",
    "pgd:loss=ce": _PGD.replace("loss=dice", "loss=ce"),
    "cospgd": _COSPGD,
    "segpgd": "segpgd:alpha=2/255,eps=8/255,random_start=true,restarts=1,steps=20",
    "pgd": _PGD,
    "pgd:steps=100": _PGD.replace("steps=20", "steps=100"),
    "apgd": "apgd:eps=8/255,loss=dice,reduce_radius=true,restarts=1,steps=100",
    "ensemble": "ensemble:eps=8/255",
    "vafa": _VAFA,
    "vafa2d": (
        "vafa2d:block_size=8,eps=none,hard_rounding=false,loss=dice_ce,q_init=max,q_max=20,q_min=1,renorm=none,"
        "ssim_weight=0,steps=20"
    ),
    "sa2": (
        "sa2:band=all,band_rule=index_sum,beta=0.1,block_size=8,eps=none,loss=dice_ce,loss_weight=1,rho=0.2,"
        "ssim_weight=1,steps=20"
    ),
}
"""What the second table calls an attack, as on the command line, to its whole canonical spec."""


def with_excerpts(
    folder: Path, tables: Mapping[str, Frame], places: Mapping[str, Sequence[Place]]
) -> dict[Path, str]:
    """Pages with fresh excerpts, by their path; those without markers are not among them.

    Args:
        folder: the one beside the results, with the README.
        tables: white-box table per dataset folder.
        places: the ranking under :data:`PROTOCOL` per dataset folder.

    Raises:
        RecordsError: if a marker is missing, repeated, or out of order.
    """
    found = {}
    for page in (folder / name for name in PAGES):
        text = fresh = page.read_bytes().decode("utf-8", "replace") if page.is_file() else ""
        if START in text or END in text:
            fresh = _between(page, fresh, START, END, excerpt(tables, places))
        if BRIEF_START in text or BRIEF_END in text:
            fresh = _between(page, fresh, BRIEF_START, BRIEF_END, first_look(tables, places))
        if START in text or END in text or BRIEF_START in text or BRIEF_END in text:
            found[page] = fresh
    return found


def _between(page: Path, text: str, start: str, end: str, inner: str) -> str:
    """The text with ``inner`` between its markers.

    Raises:
        RecordsError: not one of each, in this order.
    """
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    if text.count(start) != 1 or text.count(end) != 1 or end not in rest:
        raise RecordsError(
            f"{page}: expected one {start} and then one {end}, found {text.count(start)} and {text.count(end)} or "
            "another order; put them around the excerpt"
        )
    return f"{head}{start}\n{inner}{end}{tail}"


def first_look(tables: Mapping[str, Frame], places: Mapping[str, Sequence[Place]]) -> str:
    """One table: clean, under noise, under PGD, worst case."""
    rows = _rows(tables)
    if not rows:
        return _none()
    columns = {name: COLUMNS[name] for name in FIRST_LOOK}
    return _noted(_models(rows, places.get(DATASET, ()), columns))


def excerpt(tables: Mapping[str, Frame], places: Mapping[str, Sequence[Place]]) -> str:
    """Both tables with their captions, from the rows of :data:`DATASET` under :data:`PROTOCOL`."""
    rows = _rows(tables)
    if not rows:
        return _none()
    counts = sorted({row["n_cases"] for row in rows if row["n_cases"]})
    patients = " to ".join(str(n) for n in sorted({counts[0], counts[-1]})) if counts else "no"
    return (
        f"{DATASET.capitalize()}, {patients} validation patients, protocol `{PROTOCOL}`, small networks of the zoo, mean\n"
        "foreground Dice with 95% bootstrap interval over patients. Worst case: per patient the lowest Dice over the whole\n"
        "suite, which ranks the models; n/a where a row of it is lacking. Checks: the worst state of the suite's rows.\n\n"
        f"{_noted(_models(rows, places.get(DATASET, ())))}\n"
        f"The attacks side by side on one of them, defaults unless written:\n\n{_noted(_attacks(rows))}"
    )


def _rows(tables: Mapping[str, Frame]) -> list[dict[str, Any]]:
    table = tables.get(DATASET)
    return [] if table is None else [r for r in table.to_dict("records") if r["protocol"] == PROTOCOL]


def _none() -> str:
    return f"No records of {DATASET} under {PROTOCOL} yet.\n"


def _models(rows: list[dict[str, Any]], places: Sequence[Place], columns: Mapping[str, str] = COLUMNS) -> str:
    ranked = {place.model: place for place in places}
    known = list(MODELS)
    names = {row["surrogate"] for row in rows}
    plain = {name: split_defence(name)[0] for name in names}
    order = sorted(
        names, key=lambda name: (known.index(plain[name]) if plain[name] in known else len(known), name)
    )
    lines = []
    for name in order:
        mine = [row for row in rows if row["surrogate"] == name]
        clean = next((f"{r['dice_clean']:.2f}" for r in mine if r["dice_clean"] == r["dice_clean"]), "n/a")
        cells = [_dice(find(mine, spec)) for spec in columns.values()]
        place = ranked.get(name)
        worst = (
            "n/a"
            if place is None
            else with_interval(place.worst, place.low, place.high, digits=2, between="-")
        )
        state = _state(mine) if place is None else place.checks
        lines.append([markdown_text(name), clean, *cells, worst, state])
    return markdown_table(["model", "clean", *columns, "worst case", "checks"], lines)


def _state(rows: list[dict[str, Any]]) -> str:
    """The worst state of the suite's rows that a model has."""
    suite = find_suite(PROTOCOL)
    specs = {row.spec for row in suite.attacked} if suite is not None else set()
    return worst_state([row["checks"] for row in rows if row["attack"] in specs])


def _attacks(rows: list[dict[str, Any]]) -> str:
    mine = [row for row in rows if row["surrogate"] == MODEL]
    lines = []
    for name, spec in ATTACKS.items():
        row = find(mine, spec)
        if row is not None and row["n_cases"]:
            budget = [f"{row['hd95_adv_mm']:.1f}", f"{row['l2']:.1f}", f"{255 * row['linf']:.0f}/255"]
            lines.append([f"`{name}`", _dice(row), *budget])
    return markdown_table([f"attack on `{MODEL}`", "Dice", "HD95 mm", "L2", "L-inf"], lines)


def find(rows: list[dict[str, Any]], spec: str) -> dict[str, Any] | None:
    """The row of exactly this attack."""
    return next((row for row in rows if row["attack"] == spec), None)


def _dice(row: dict[str, Any] | None) -> str:
    if row is None or row["dice_adv"] != row["dice_adv"]:
        return "n/a"
    dice = with_interval(row["dice_adv"], row["dice_adv_low"], row["dice_adv_high"], digits=2, between="-")
    return dice + MARK if UNFINISHED in row["flags"].split(";") else dice


def _noted(table: str) -> str:
    """The table, and below it what its mark means, where it has one."""
    return f"{table}\n{NOTE}" if MARK in table else table
