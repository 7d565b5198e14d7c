"""The ``steal`` command: from what was asked to the study, its tables, and a word on what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from robustvox.datasets import DatasetError
from robustvox.datasets.scanner import ScannerShift
from robustvox.models import CATALOG, ZOO, CheckpointError

from ...plan.cases import load_dataset
from ...plan.models import choose_device
from ...records.patients import note_patients
from ...records.sources import claim, zoo_name
from ...specs.names import printable
from ...specs.requests import StealRequest
from ...specs.spec import Spec, UsageError, canonical, match, parse_value
from ...studies.stealing.setting import Setting, Study
from ...studies.stealing.study import Experiment
from ...studies.stealing.tables import HEADINGS, cells, write
from ...studies.stealing.thief import Steal
from ..codes import DONE
from .console import escape, make_console, progress
from .fitted_table import fitted_table, plain

TITLES = {
    "function": "function on the thief's scanner",
    "transfer": "attacks on the victim",
    "queries": "agreement against queries",
}


def steal_model(request: StealRequest) -> int:
    """Steal, attack, print and write; what is already in the folder is not done again.

    Raises:
        UsageError: for any name, number, file or combination that cannot be.
    """
    console = make_console()
    dataset = load_dataset(request.dataset, request.data_root, request.out)
    device = choose_device(request.device)
    try:
        study = build_study(request, ZOO / zoo_name(dataset))
        claim(request.out, dataset)
        folder = request.out / dataset.name / "stealing" / folder_name(study)
        with progress(f"steal {study.model}", 1) as bar:

            def show(what: str, done: int, total: int) -> None:
                bar.update(bar.task_ids[0], completed=done, total=total, description=escape(what))

            setting = Setting(study, dataset, folder, device)
            setting.cast(study.seeds[0])  # too few patients are refused before anything is written
            _writable(folder)
            Experiment(setting, zoo=ZOO / zoo_name(dataset), on_work=show).run()
        note_patients(folder, dataset, dataset.splits["validation"])
        made = write(folder)
    except (CheckpointError, DatasetError, ValueError) as error:
        raise UsageError(str(error)) from error
    for name, table in made.items():
        title = f"{dataset.name}, {study.model}, scanner {study.shift}: {TITLES[name]}{_over(table)}"
        rows = [[plain(cell) for cell in row] for row in cells(name, table)]
        console.print(fitted_table(console, printable(title), HEADINGS[name], rows))
    console.print(f"tables, patients' rows and checkpoints in {escape(str(folder))}", soft_wrap=True)
    return DONE


def _over(table: Any) -> str:
    """Over how many cases, and the clean Dice on them, where a table says one."""
    said = [("n_cases", "{} cases"), ("dice_clean", "clean Dice {:.3f}")]
    told = (
        text.format(table[name].iloc[0])
        for name, text in said
        if name in table and table[name].nunique() == 1
    )
    return "".join(f", {text}" for text in told)


def build_study(request: StealRequest, zoo: Path) -> Study:
    """Every name and number of the request resolved; without ``--other`` the SegResNet of the zoo, if there is one.

    Raises:
        UsageError: unknown name, or a window that is none.
        ValueError: a number out of range.
    """
    return Study(
        model=_architecture(request.model),
        shift=ScannerShift.parse(request.shift),
        steal=Steal(
            budget=request.queries,
            rounds=request.rounds,
            steps=request.steps,
            architecture=_architecture(request.thief),
            calibration=_calibration(request.calibration),
        ),
        seeds=tuple(dict.fromkeys(request.seeds)) or (0,),
        victim_cases=request.victim_cases,
        victim_steps=request.victim_steps,
        checkpoint=request.checkpoint,
        pool=request.pool,
        reference=request.reference,
        test=request.cases,
        curve=tuple(
            sorted({max(round(request.queries / 4), 2), max(request.queries // 2, 2)} - {request.queries})
        ),
        others=tuple(match(name, CATALOG, "model") for name in dict.fromkeys(request.others))
        or tuple(name for name in ("segresnet",) if (zoo / f"{name}.safetensors").is_file()),
        roi_size=_window(request.roi_size),
        full=request.full,
    )


def folder_name(study: Study) -> str:
    """One folder per victim and scanner.

    Example:
        >>> folder_name(Study(model="unet:num_res_units=0,size=small"))
        'unet-num_res_units-0-edge-6'
        >>> folder_name(Study(model="unet:size=small", victim_steps=400))
        'unet-edge-6-victim_steps-400'
    """
    text = f"{study.model} {study.shift}".replace(",size=small", "").replace(":size=small", "")
    if study.checkpoint is None and study.victim_steps != Study.victim_steps:
        text = f"{text} victim_steps {study.victim_steps}"
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")


def _writable(folder: Path) -> None:
    """Refuse a place where no result could be kept before hours of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"expected --out to be a folder that can be written, found {folder}: {error.strerror}; give another --out"
        ) from error


def _architecture(text: str) -> str:
    """The canonical spec of an architecture, its size written out."""
    spec = Spec.parse(text)
    return canonical(match(spec.name, CATALOG, "model"), {"size": "small", **spec.parameters})


def _calibration(text: str) -> Literal["population", "phantom"]:
    return "phantom" if match(text, ("population", "phantom"), "--calibration") == "phantom" else "population"


def _window(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    sides = [parse_value(part.strip()) for part in text.split(",")]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise UsageError(f"expected --roi-size as whole numbers of voxels like 40,56,48, got {text!r}")
    return tuple(sides)
