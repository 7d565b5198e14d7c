"""What the rows of a run say of each scored model, as values; the verdict and the tables of a report read these.

A pure function of the records: nothing here knows what was meant to be run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..records.reading import Frame, Records
from ..records.states import CONTROL, FAILED, Found, state_of
from ..show.labels import attack_names, is_noise
from ..show.tables.best import Marks, best_models
from ..show.tables.cases import per_case, with_hashes
from ..show.tables.results import all_rows
from ..show.tables.success import organ_outcomes
from ..specs.spec import CLEAN

_ROW = ("surrogate", "target", "attack")

SEEN_DB = 20.0
"""PSNR below which a change is a tenth of the whole range in the mean: anybody sees it, and any network breaks."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack as it was scored on one model.

    Attributes:
        attack: canonical spec.
        label: short name, unambiguous within the run.
        surrogate: whose volumes these are.
        noise: whether it is a control.
        one_step: whether it takes a single step.
        patients: how many the cases are of.
        failed: cases that have no result.
        clean, dice, low, high: mean Dice of the very cases of the row, and the interval of the attacked mean; NaN
            where there is none.
        hd95_clean, hd95: mean HD95 in :attr:`unit`.
        l2, psnr: measured L2 of the change, and its PSNR in dB.
        missing, invented: organs of a case that the prediction lacks, or has and the reference lacks.
        state: what checks say, a word of :mod:`robustvox.benchmark.records.states`.
        checked: how many checks were computed.
        broken: ids of the checks that failed.
        lacking: ids of checks that the suite asks for and nobody computed.
        flags: as in the table.
        by_case: attacked Dice of every case that has one.
        clean_by_case: clean Dice of the same cases, as far as it is known.
    """

    attack: str
    label: str
    surrogate: str
    noise: bool = False
    one_step: bool = False
    patients: int = 0
    failed: int = 0
    clean: float = math.nan
    dice: float = math.nan
    low: float = math.nan
    high: float = math.nan
    hd95_clean: float = math.nan
    hd95: float = math.nan
    l2: float = math.nan
    psnr: float = math.nan
    missing: int = 0
    invented: int = 0
    state: str = CONTROL
    checked: int = 0
    broken: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    by_case: Mapping[str, float] = field(default_factory=dict)
    clean_by_case: Mapping[str, float] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """How many cases the row rests on."""
        return len(self.by_case)

    @property
    def scored(self) -> bool:
        """Whether it is an attack, which noise is not, and has a Dice."""
        return not self.noise and not math.isnan(self.dice)

    @property
    def seen(self) -> bool:
        """Whether the change is so large that it shows nothing of an attack; see :data:`SEEN_DB`."""
        return self.psnr < SEEN_DB

    @property
    def unit(self) -> str:
        """Of its HD95."""
        return "voxels" if "hd95-voxels" in self.flags else "mm"

    @property
    def drops_lost(self) -> bool:
        """Whether its HD95 leaves out organs that are gone."""
        return "drops-lost" in self.flags

    @property
    def drop(self) -> float:
        """Dice that the attack took."""
        return self.clean - self.dice


@dataclass(frozen=True, kw_only=True)
class Organ:
    """The worst that the attacks of a run did to one organ of one model; noise and what anybody sees do not count.

    Attributes:
        class_id, name: of the organ.
        cases: attacked cases that have it and on which it was found before the attack.
        lost: of these, how many lost it under some attack: Dice below half of its clean Dice.
        unfound: cases that have it and on which no voxel of it was right even before any attack.
        case, label: where its Dice fell lowest, and the attack.
        dice_clean, dice, hd95_clean, hd95: there, before and after.
        gone: whether not one voxel of it was predicted there; HD95 is then the diagonal of the volume.
        mean_clean, mean: over its cases, before any attack and under the worst attack of each case.
    """

    class_id: int
    name: str
    cases: int = 0
    lost: int = 0
    unfound: int = 0
    case: str = ""
    label: str = ""
    dice_clean: float = math.nan
    dice: float = math.nan
    hd95_clean: float = math.nan
    hd95: float = math.nan
    gone: bool = False
    mean_clean: float = math.nan
    mean: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All rows that score one model.

    Attributes:
        model: name, with a part of its hash where names repeat.
        white_box: whether the model itself was attacked; otherwise all rows are of others' volumes.
        rows: white-box rows where there are any, else the rows of others' volumes, in the order of the tables.
        others: rows of others' volumes beside white-box ones.
        organs: in the order of their ids.
        patients: how many the cases of all rows are of.
    """

    model: str
    white_box: bool = True
    rows: tuple[Row, ...] = ()
    others: tuple[Row, ...] = ()
    organs: tuple[Organ, ...] = ()
    patients: int = 0

    @property
    def attacks(self) -> tuple[Row, ...]:
        """Rows that say something: of attacks that have a Dice, by changes that are not plain to see."""
        return tuple(row for row in self.rows if row.scored and not row.seen)

    @property
    def seen(self) -> tuple[Row, ...]:
        """Rows of attacks that anybody would see."""
        return tuple(row for row in self.rows if row.scored and row.seen)

    @property
    def controls(self) -> tuple[Row, ...]:
        """Rows of noise that have a Dice."""
        return tuple(row for row in self.rows if row.noise and not math.isnan(row.dice))


def evidence(records: Records, flags: Frame = None, states: Found | None = None) -> tuple[Evidence, ...]:
    """What the records say of each scored model, in the order of the tables.

    Args:
        records: those of one run, one dataset and protocol.
        flags: of :func:`robustvox.benchmark.records.outcomes.load_flags`.
        states: of :func:`robustvox.benchmark.records.states.load_states`.

    Example:
        >>> from pathlib import Path
        >>> from robustvox.benchmark.records import load_records
        >>> evidence(load_records(Path("no/such/folder")))
        ()
    """
    cases = per_case(records)
    table, same = all_rows(records, flags, cases, states)
    named = with_hashes(cases, records)
    labels = {spec: name for spec, name in attack_names(Counter(table["attack"])).items()}
    reader = _Reader(named, labels, states or {}, _hashes(named, records))
    rows = [
        (entry["target"], white, reader.row(entry))
        for entry, white in zip(table.to_dict("records"), same, strict=True)
    ]
    seen = {(row.surrogate, target, row.attack) for target, _, row in rows if row.seen}
    organs = _organs(records, {spec: name.label for spec, name in labels.items()}, seen)
    found = []
    for model in dict.fromkeys(target for target, _, _ in rows):
        own = tuple(row for target, white, row in rows if target == model and white)
        others = tuple(row for target, white, row in rows if target == model and not white)
        patients: Any = named.loc[(named["target"] == model) & (named["attack"] != CLEAN), "patient"]
        found.append(
            Evidence(
                model=model,
                white_box=bool(own),
                rows=own or others,
                others=others if own else (),
                organs=organs(model, white_box=bool(own)),
                patients=patients.nunique(),
            )
        )
    return tuple(found)


def comparison(records: Records) -> Marks:
    """Which model keeps most under each attack, and which ones cannot be told from it."""
    return best_models(with_hashes(per_case(records), records))


class _Reader:
    """Rows of the table as :class:`Row`, with what only the cases know."""

    def __init__(
        self, cases: Frame, names: Mapping[str, Any], states: Found, hashes: Mapping[str, str]
    ) -> None:
        self._names, self._states, self._hashes = names, states, hashes
        self._cases: dict[tuple[str, ...], Frame] = dict(iter(cases.groupby(list(_ROW))))
        clean: Frame = cases[(cases["attack"] == CLEAN) & cases["dice"].notna()]
        self._clean = {
            model: dict(zip(part["case"], part["dice"], strict=True))
            for model, part in clean.groupby("target")
        }

    def row(self, entry: Mapping[str, Any]) -> Row:
        """A row of the table; its cases may all have failed."""
        name = self._names[entry["attack"]]
        noise = is_noise(entry["attack"])
        mine = self._cases.get(tuple(entry[key] for key in _ROW))
        known = None if mine is None else mine[mine["dice"].notna()]
        by_case = {} if known is None else dict(zip(known["case"], known["dice"], strict=True))
        clean = self._clean.get(entry["target"], {})
        sha256 = self._hashes.get(entry["surrogate"], "")
        state = state_of(self._states, entry["protocol"], sha256, entry["attack"], control=noise)
        return Row(
            attack=entry["attack"],
            label=name.label,
            surrogate=entry["surrogate"],
            noise=noise,
            one_step=name.one_step,
            patients=0 if known is None else known["patient"].nunique(),
            failed=int(entry["failed"]),
            clean=entry["dice_clean"],
            dice=entry["dice_adv"],
            low=entry["dice_adv_low"],
            high=entry["dice_adv_high"],
            hd95_clean=entry["hd95_clean_mm"],
            hd95=entry["hd95_adv_mm"],
            l2=entry["l2"],
            psnr=entry["psnr"],
            missing=int(entry["missing"]),
            invented=int(entry["hallucinated"]),
            state=state.name,
            checked=len(self._states.get((entry["protocol"], sha256, entry["attack"]), {})),
            broken=state.failed if state.name == FAILED else (),
            lacking=state.lacking,
            flags=tuple(filter(None, str(entry["flags"]).split(";"))),
            by_case=by_case,
            clean_by_case={case: clean[case] for case in by_case if case in clean},
        )


def _hashes(named: Frame, records: Records) -> dict[str, str]:
    """The checkpoint behind every shown name of an attacked model."""
    failed = with_hashes(records.failures, records)
    return {
        name: sha256
        for frame in (failed, named)
        for name, sha256 in zip(frame["surrogate"], frame["surrogate_sha256"], strict=True)
    }


def _organs(records: Records, labels: Mapping[str, str], without: Collection[tuple[str, ...]]) -> Any:
    """A function that gives the organs of a model, those of noise and of some rows left out."""
    outcomes = with_hashes(organ_outcomes(records), records)
    rows = zip(*(outcomes[name] for name in _ROW), strict=True)
    attacked: Frame = outcomes[np.array([not is_noise(row[2]) and row not in without for row in rows], bool)]
    scores: Any = records.scores.merge(
        records.costs[["unit", "surrogate_sha256", "target_sha256"]], on="unit"
    )
    scores = with_hashes(scores, records)
    clean = scores[(scores["attack"] == CLEAN) & (scores["class_id"] > 0)]

    def of(model: str, *, white_box: bool) -> tuple[Organ, ...]:
        mine = attacked[attacked["target"] == model]
        mine = mine[(mine["surrogate"] == model) == white_box]
        before = clean[clean["target"] == model]
        found = []
        for (class_id, name), part in before.groupby(["class_id", "class_name"], sort=True):
            unfound = int((part["status"].isin(["ok", "missing"]) & ~(part["dice"] > 0)).sum())
            hd95 = dict(zip(part["case"], part["hd95_mm"], strict=True))
            under = mine[mine["class_id"] == class_id]
            found.append(_organ(int(class_id), name.replace("_", " "), under, hd95, unfound, labels))
        return tuple(found)

    return of


def _organ(
    class_id: int,
    name: str,
    under: Frame,
    hd95_clean: Mapping[str, float],
    unfound: int,
    labels: Mapping[str, str],
) -> Organ:
    """One organ under all attacks on one model."""
    under = under[under["dice"].notna()]
    if not len(under):
        return Organ(class_id=class_id, name=name, unfound=unfound)
    by_case = under.groupby("case")
    # Equal ones in the order of the table, so that the same records name the same case.
    worst = under.sort_values(["dice", "case", "attack"], kind="stable").iloc[0]
    return Organ(
        class_id=class_id,
        name=name,
        cases=len(by_case),
        lost=int(by_case["lost"].any().sum()),
        unfound=unfound,
        case=worst["case"],
        label=labels[worst["attack"]],
        dice_clean=float(worst["dice_clean"]),
        dice=float(worst["dice"]),
        hd95_clean=float(hd95_clean.get(worst["case"], math.nan)),
        hd95=float(worst["hd95_mm"]),
        gone=worst["status"] == "missing",
        mean_clean=float(by_case["dice_clean"].first().mean()),
        mean=float(by_case["dice"].min().mean()),
    )
