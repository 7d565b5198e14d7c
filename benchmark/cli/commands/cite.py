"""The ``cite`` command: BibTeX of what a run used. The entries are in ``citations.bib``, which ships with the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from robustvox.attacks import CATALOG as ATTACK_CATALOG
from robustvox.datasets import ALIASES as DATASET_ALIASES
from robustvox.datasets import CATALOG as DATASET_CATALOG
from robustvox.datasets import TASK_NAMES
from robustvox.models import CATALOG as MODEL_CATALOG

from ...records.coverage import record_folders
from ...records.reading import load_records
from ...specs.defences import CATALOG as DEFENCE_CATALOG
from ...specs.defences import split_defence
from ...specs.matched import split_spec
from ...specs.spec import CLEAN, match

BIBLIOGRAPHY = Path(__file__).resolve().parent / "citations.bib"


ALWAYS = ("robustvox", "malik2024evaluating")
"""This software, and the benchmark it answers to."""


ATTACKS = {
    **{name: entry.cite for name, entry in ATTACK_CATALOG.items()},
    "torchattacks": ("kim2020torchattacks",),
}
MODELS = {name: entry.cite for name, entry in MODEL_CATALOG.items()}
DEFENCES = {name: entry.cite for name, entry in DEFENCE_CATALOG.items() if entry.cite}
DATASETS: dict[str, tuple[str, ...]] = {
    "phantom": ("robustvox",),
    **dict.fromkeys(TASK_NAMES, ("antonelli2022medical",)),
    "btcv": ("landman2015btcv",),
    "acdc": ("bernard2018acdc",),
    "acdc_light": ("bernard2018acdc",),
    "hecktor": ("andrearczyk2023hecktor",),
    "flare22": ("ma2024flare22",),
}
"""Registry key to keys of the bibliography."""


STUDIES: dict[str, tuple[str, ...]] = {"steal": ("soylu2024steal", "soylu2024machine")}
"""Command to keys of the bibliography, where a command answers to a paper of its own."""


STUDY_FOLDERS = {"steal": "stealing"}
"""Command to the folder below ``results/<dataset>`` that says it was used."""


def entries() -> dict[str, str]:
    """The bibliography: key to entry."""
    text = BIBLIOGRAPHY.read_text("utf-8")
    found = re.findall(r"^(@\w+\{([^,\s]+),\n.*?^\}\n)", text, re.M | re.S)
    return {key: entry for entry, key in found}


def bibtex(
    models: Iterable[str], attacks: Iterable[str], datasets: Iterable[str], studies: Iterable[str] = ()
) -> str:
    """BibTeX of names or specs, robustvox first, each source once.

    What has no entry (somebody's own model, attack or folder) is named in a comment, so that nobody forgets it.

    Raises:
        UsageError: for a plain name that no registry has.

    Example:
        >>> print(bibtex(["unet"], ["pgd:eps=4/255"], ["phantom"]).count("@"))
        4
    """
    known = entries()
    keys = dict.fromkeys(ALWAYS)
    missing: dict[str, None] = {}
    for what, names, table, registry in (
        ("attack", [part for name in attacks for part in _attack_names(name)], ATTACKS, ATTACK_CATALOG),
        ("model", map(_name, models), MODELS, MODEL_CATALOG),
        ("defence", _defences(models), DEFENCES, DEFENCE_CATALOG),
        ("dataset", datasets, DATASETS, {**DATASET_CATALOG, **DATASET_ALIASES}),
    ):
        for name in dict.fromkeys(names):
            if _foreign(name, what):
                missing[f"{what} {name}"] = None
            else:
                key = match(name, {**table, **registry}, what)
                keys |= dict.fromkeys(table[DATASET_ALIASES.get(key, key)])
    for name in studies:
        keys |= dict.fromkeys(STUDIES[match(name, STUDIES, "study")])
    notes = [f"% no entry for {' '.join(name.split())}: cite its own source\n" for name in missing]
    return "\n".join([*notes, *(known[key] for key in keys)])


def used(results: Path) -> tuple[list[str], list[str], list[str]]:
    """Models, attacks and datasets of all records below a results folder, each sorted.

    Raises:
        UsageError: if there are no records.
        RecordsError: if they are damaged.
    """
    models, attacks, datasets = set[str](), set[str](), set[str]()
    for folder in record_folders(results):
        records = load_records(folder)
        for frame in (records.costs, records.failures):
            models |= {*frame["surrogate"], *frame["target"]}
            attacks |= {*frame["attack"]} - {CLEAN}
            datasets |= {*frame["dataset"]}
    own = {name for name in datasets if name not in {**DATASETS, **DATASET_ALIASES}}
    return sorted(models), sorted(attacks), sorted(datasets - own | {f"./{name}" for name in own})


def studied(results: Path) -> list[str]:
    """The studies that have results below a results folder."""
    return [name for name, folder in STUDY_FOLDERS.items() if _rows(results, folder)]


def _rows(results: Path, folder: str) -> bool:
    return any(any(results.glob(f"*/{folder}/**/*{suffix}")) for suffix in (".csv", ".csv.gz"))


def _name(spec: str) -> str:
    """``unet`` of ``unet:size=small``; a factory ``package.module:name`` stays whole."""
    head, _, rest = split_defence(spec)[0].partition(":")
    return head if not rest or "=" in rest.partition(",")[0].partition(":")[0] else spec


def _defences(models: Iterable[str]) -> list[str]:
    """The defences that the models were trained with, controls of our own left out."""
    found = [split_defence(name)[1] for name in models]
    return [name for name in found if name and DEFENCE_CATALOG[name].cite]


def _attack_names(spec: str) -> list[str]:
    """The attack of a spec, and the reference it was matched to."""
    matched = split_spec(spec)
    names = [_name(part) for part in ((matched.attack, matched.reference) if matched else (spec,))]
    return ["torchattacks" if name.startswith("torchattacks:") else name for name in names]


def _foreign(name: str, what: str) -> bool:
    """Somebody's own: an importable name, or a path."""
    return ":" in name or (what == "dataset" and ("/" in name or name.endswith(".csv")))
