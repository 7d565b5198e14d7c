"""What the page shows of one dataset: frames that were made for the tables already, and a few sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...records.provenance import read_entries
from ...records.reading import Frame
from ...records.states import CheckState, Found, state_of
from ...specs.spec import CLEAN as CLEAN
from ..labels import is_noise
from .entries import Entry


@dataclass(frozen=True)
class Board:
    """One folder of results. Models carry the names that the tables show.

    Args:
        folder: name of the folder below the page.
        white_box, transfer: the tables, columns as in :data:`robustvox.benchmark.show.tables.results.COLUMNS`.
        cases: one row per case of every group, clean images included: means over classes and seeds.
        classes: one row per scored class of a unit: ``class_id class_name dice status`` and its keys.
        failures: one row per failed unit. These three have the surrogate's name in the records as ``stored``.
        outcomes: what checks found, from :func:`robustvox.benchmark.records.outcomes.load_warnings`.
        organs: mean millilitres by class id, from :mod:`robustvox.benchmark.records.organs`; empty where unknown.
        notes: what every table of the data has to say.
        ranked: as ``cases``, of the rows alone that a suite admits; the same where nothing says.
        checks: what every check found, from :func:`robustvox.benchmark.records.states.load_states`.
        entries: who stands behind each model, by the name that is shown.
        pictures: what ``figures --ranking`` drew, by the hash of the rows that it shows.
        sources: lines that say where the data come from, under which licence.
    """

    folder: str
    white_box: Frame
    transfer: Frame
    cases: Frame
    classes: Frame
    failures: Frame
    outcomes: Frame
    sources: tuple[str, ...] = ()
    organs: Mapping[int, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ranked: Frame = None
    checks: Found = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The dataset as the records call it, or else as the folder is called."""
        found = {*self.white_box["dataset"], *self.transfer["dataset"]}
        return found.pop() if len(found) == 1 else self.folder

    @cached_property
    def stored(self) -> dict[str, str]:
        """The name in the records, and so of the files, by the name that is shown."""
        return {
            shown: name
            for frame in (self.failures, self.cases)
            for shown, name in zip(frame["surrogate"].tolist(), frame["stored"].tolist(), strict=True)
        }

    @cached_property
    def patients(self) -> dict[str, str]:
        """Whom each case is of; itself where the frame does not say."""
        whose = self.cases["patient"] if "patient" in self.cases else self.cases["case"]
        return dict(zip(self.cases["case"], whose, strict=True))

    @property
    def suited(self) -> Frame:
        """The cases that a ranking may use."""
        return self.cases if self.ranked is None else self.ranked

    @cached_property
    def sha256(self) -> dict[str, str]:
        """The attacked checkpoint by the name that is shown."""
        return dict(zip(self.cases["surrogate"], self.cases["surrogate_sha256"], strict=True))

    def state(self, protocol: str, model: str, attack: str) -> CheckState:
        """What checks say of the rows of an attack on a shown model."""
        return state_of(self.checks, protocol, self.sha256.get(model, ""), attack, control=is_noise(attack))

    @property
    def protocols(self) -> list[str]:
        """Protocols with rows, sorted."""
        return sorted({*self.white_box["protocol"], *self.transfer["protocol"]})


def own(frame: Frame) -> Frame:
    """The rows in which the attacked checkpoint is the scored one."""
    same = (frame["surrogate"] == frame["target"]) & (frame["surrogate_sha256"] == frame["target_sha256"])
    return frame[same]


def load_sources(records: Path) -> tuple[str, ...]:
    """Source and licence of the data, from the provenance beside ``results/<dataset>/records``; sorted."""
    return _from_provenance(records, ("source", "licence"))


def load_notes(records: Path) -> tuple[str, ...]:
    """What every table of the data has to say, such as that millimetres are nominal, from the provenance; sorted."""
    return _from_provenance(records, ("note",))


def _from_provenance(records: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """These entries of the datasets, joined; those that lack one are left out."""
    found = set()
    for path in sorted(Path(records).glob("*/provenance.jsonl")):
        for entry in read_entries(path):
            # Of a damaged line, or one of an older form, only a line of text is lost here; the check tells.
            data = {} if isinstance(entry, str) else entry[1].dataset
            parts = [data.get(name) for name in names]
            if all(isinstance(part, str) and part for part in parts):
                found.add(", ".join(map(str, parts)))
    return tuple(sorted(found))
