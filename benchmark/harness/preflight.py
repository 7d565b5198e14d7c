"""What a worker must have before it gets a job: the same code, data, models and attacks as the run.

A worker of another version computes other numbers and fails nowhere. So every worker answers first, and every process
answers for itself once more when its first job comes: one that was started later is asked all the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ..plan.plan import Plan
from ..records.provenance import version
from .bench import Bench
from .faults import CASE_FAILURES, reason_of

_PACKAGES = ("torch", "monai", "numpy", "scipy")  # what numbers depend on
_COMPARED_BY_VERSION = ("robustvox", "torch", "monai")


@dataclass(frozen=True)
class Place:
    """Where a row was computed, as its provenance says it.

    Attributes:
        device: of the networks, ``cpu`` or ``cuda``.
        accelerator: its name, or ``none``.
        threads: of a computation.
    """

    device: str
    accelerator: str
    threads: int


@dataclass(frozen=True)
class Answer:
    """What a process has; two that compute rows of one run agree in everything but where they are.

    Attributes:
        version: of robustvox.
        source: sha256 of its source as this process loaded it.
        packages: name and version of what numbers depend on.
        case, case_sha256: the first case that the run could read, and its fingerprint.
        models: name and sha256 of every model.
        attacks: canonical specs.
        code: file and sha256 of code that is nobody's package: modules of the user.
        place: device, which may differ.
        card: identity of the accelerator, empty without one.
        problem: why this process cannot compute, empty if it can.
    """

    version: str
    source: str
    packages: tuple[tuple[str, str], ...]
    case: str
    case_sha256: str
    models: tuple[tuple[str, str], ...]
    attacks: tuple[str, ...]
    code: tuple[tuple[str, str], ...]
    place: Place
    card: str = ""
    problem: str = ""


def answer(bench: Bench, case: str | None = None, folder: Path | None = None) -> Answer:
    """What this process has.

    Args:
        bench: the plan as this process resolved it.
        case: whose fingerprint is told; None for the first that can be read.
        folder: where volumes would be written; None where none are.
    """
    plan = bench.plan
    first, sha256, problem = _fingerprint(bench, plan.cases if case is None else [case] if case else [])
    if case is None:  # the run itself: a case that it cannot read is a row
        problem = ""
    if not problem and folder is not None and not _can_write(folder):
        problem = f"the folder {folder} for volumes cannot be written here"
    if not problem and source_sha256() != SOURCE:
        problem = "the source of robustvox changed since this process started; start it again"
    return Answer(
        version=version(),
        source=SOURCE,
        packages=tuple((name, importlib.metadata.version(name)) for name in _PACKAGES),
        case=first,
        case_sha256=sha256,
        models=tuple(model.key for model in plan.models),
        attacks=tuple(named.spec for named in plan.attacks),
        code=_code(plan),
        place=place_of(plan.device),
        card=_card(plan.device),
        problem=problem,
    )


def disagreement(run: Answer, worker: Answer) -> str:
    """Why a worker may not compute for a run, in one line; empty if it may.

    Example:
        >>> from dataclasses import replace
        >>> run = Answer("0.1.0", "ab", (("torch", "2.6.0"),), "c1", "cd", (), (), (), Place("cpu", "none", 1))
        >>> disagreement(run, replace(run, place=Place("cuda", "H100", 1)))
        ''
        >>> disagreement(run, replace(run, packages=(("torch", "2.5.1"),)))
        'expected torch 2.6.0 as in this run, found 2.5.1; install the same there'
    """
    if run.version != worker.version:
        return _differs("robustvox", run.version, worker.version, "install the same there")
    if run.source != worker.source:
        return _differs(
            f"robustvox {run.version} with source",
            run.source[:8],
            worker.source[:8],
            "install the same there",
        )
    for (name, mine), (_, theirs) in zip(run.packages, worker.packages, strict=True):
        if mine != theirs:
            return _differs(name, mine, theirs, "install the same there")
    if worker.problem:
        return worker.problem
    if run.case_sha256 and run.case_sha256 != worker.case_sha256:
        found = worker.case_sha256[:8] or "none"
        return _differs(
            f"the case {run.case} with sha256", run.case_sha256[:8], found, "give it the same data"
        )
    for what, mine, theirs, remedy in (
        ("the models", run.models, worker.models, "give it the same checkpoints"),
        ("the code", run.code, worker.code, "give it the same module"),
        (
            "the attacks",
            tuple((a, "") for a in run.attacks),
            tuple((a, "") for a in worker.attacks),
            "see above",
        ),
    ):
        wanted = [pair for pair in mine if pair not in theirs]
        if wanted or len(mine) != len(theirs):
            found = ", ".join(_pair(pair) for pair in theirs if pair not in mine) or "none"
            return _differs(what, ", ".join(map(_pair, wanted)) or "no other", found, remedy)
    return ""


def source_sha256() -> str:
    """Hex sha256 of the source of the four packages as it lies on the disk."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for top in ("attacks", "benchmark", "datasets", "models"):
        for path in sorted((root / top).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


SOURCE = source_sha256()
"""Of this process: taken when it loads this file, because a long-lived worker keeps the code it loaded."""


def _fingerprint(bench: Bench, cases: Sequence[str]) -> tuple[str, str, str]:
    """The first of the cases that can be read, its fingerprint, and else why the last one cannot."""
    problem = ""
    for case in cases:
        try:
            return case, bench.case(case).data_sha256, ""
        except CASE_FAILURES as error:
            problem = f"the case {case} cannot be read here: {reason_of(error)}"
    return "", "", problem


def _differs(what: str, mine: str, theirs: str, remedy: str) -> str:
    return f"expected {what} {mine} as in this run, found {theirs}; {remedy}"


def _pair(pair: tuple[str, str]) -> str:
    return f"{pair[0]} {pair[1][:8]}".strip()


def _can_write(folder: Path) -> bool:
    existing = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    return os.access(existing, os.W_OK)


def place_of(device: str) -> Place:
    """Where this process computes."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return Place(device.partition(":")[0], accelerator, torch.get_num_threads())


def _card(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    return str(getattr(torch.cuda.get_device_properties(torch.device(device)), "uuid", ""))


def _code(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Files of attacks and networks that are in no package whose version is compared, each with its sha256."""
    kinds = {kind for named in plan.attacks for kind in _kinds(named.attack)}
    kinds |= {type(module) for model in plan.models for module in model.predictor.modules()}
    found = {}
    for name in {kind.__module__ for kind in kinds}:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name.split(".")[0] not in _COMPARED_BY_VERSION and file is not None and Path(file).is_file():
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return tuple(sorted(found.items()))


def _kinds(attack: Any) -> Iterator[type]:
    """The class of an attack, and of the attacks in it."""
    yield type(attack)
    for value in (getattr(attack, f.name, None) for f in fields(attack)) if is_dataclass(attack) else ():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if is_dataclass(inner) and not isinstance(inner, type):
                yield from _kinds(inner)
