"""The ``verify`` command: recompute a sample of record rows from the checkpoints and compare.

What is compared, and how closely: the hash of the case's image and label exactly, Dice per class within
:data:`CLEAN_TOLERANCE` on clean images and :data:`ATTACKED_TOLERANCE` on attacked ones. Thread count and processor
change the last bits of a convolution, and an iterative attack carries them into its next sign, so attacked volumes
differ a little from machine to machine (docs/submitting.md has the measurement). Time, and the distances in mm that
one voxel at the border can move far, are not compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robustvox.models import CheckpointError, read_card

from ...records.coverage import locate, record_folders, row_problems
from ...records.reading import Records, load_records
from ...records.unit import Unit
from ...specs.requests import VerifyRequest
from ...specs.spec import UsageError
from ..codes import DONE, SOME_FAILED

if TYPE_CHECKING:
    from robustvox.datasets import Dataset

    from ...craft.named import NamedModel


CLEAN_TOLERANCE = 1e-3


ATTACKED_TOLERANCE = 0.01


def verify_records(request: VerifyRequest, echo: Callable[[str], None] = typer.echo) -> int:
    """Check every row's identity and checkpoints, then recompute a sample; 0 if all agrees, else 1.

    Raises:
        UsageError: no records there, a checkpoint that cannot be read, or a dataset that is not at hand.
    """
    known = known_checkpoints(request.checkpoints)
    problems, recomputed = 0, 0
    for folder in record_folders(request.records):
        records = load_records(folder)
        units = units_of(records)
        found = [*row_problems(folder, records), *_unknown_checkpoints(folder, units, known)]
        for text in found:
            echo(text)
        problems += len(found)
        if found:
            continue  # nothing to recompute from rows that are not what they say
        chosen = sorted(
            random.Random(request.seed).sample(units, min(request.sample, len(units))), key=_order
        )
        bench = _Bench(request, known)
        for unit in chosen:
            recomputed += 1
            apart, found = bench.compare(unit, _rows(records, unit))
            echo(f"{'differs' if found else f'agrees within {apart:.1e}'}: {describe(unit)}")
            for text in found:
                echo(f"{locate(folder, unit)}: {text}")
            problems += bool(found)
    echo(f"{request.records}: {recomputed} rows recomputed, {problems} problems")
    return SOME_FAILED if problems else DONE


def known_checkpoints(files: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Checkpoint files by their sha256: the zoo, and the ones given.

    Raises:
        UsageError: if a given file is not a checkpoint.
    """
    from robustvox.models import ZOO
    from robustvox.models.checkpoint import file_sha256

    for path in files:
        try:
            read_card(path)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    return {file_sha256(path): path for path in (*sorted(ZOO.glob("*/*.safetensors")), *files)}


def units_of(records: Records) -> list[Unit]:
    """Every completed unit of the records, sorted."""
    names = [field.name for field in fields(Unit)]
    columns = [records.costs[name].tolist() for name in names]
    units = [Unit(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
    return sorted(units, key=_order)


def describe(unit: Unit) -> str:
    """A unit in words."""
    return f"unit {unit.key} ({unit.dataset}, {unit.case}, {unit.attack}, {unit.surrogate} on {unit.target})"


def _order(unit: Unit) -> tuple[Any, ...]:
    return (unit.surrogate, unit.attack, unit.target, unit.case, unit.seed, unit.key)


def _rows(records: Records, unit: Unit) -> dict[str, float]:
    scores = records.scores[records.scores["unit"] == unit.key]
    return dict(zip(scores["class_name"].tolist(), scores["dice"].tolist(), strict=True))


def _unknown_checkpoints(folder: Path, units: list[Unit], known: Mapping[str, Path]) -> Iterator[str]:
    """One line per checkpoint that no file at hand has, naming its first row."""
    first: dict[tuple[str, str], Unit] = {}
    counts: dict[tuple[str, str], int] = {}
    for unit in units:
        pairs = {(unit.surrogate, unit.surrogate_sha256), (unit.target, unit.target_sha256)}
        for name, sha256 in sorted(pairs):
            # A factory's weights have no file; they are hashed when the model is built.
            if sha256 not in known and ":" not in name.partition("=")[0]:
                first.setdefault((name, sha256), unit)
                counts[name, sha256] = counts.get((name, sha256), 0) + 1
    for (name, sha256), unit in sorted(first.items()):
        yield (
            f"{locate(folder, unit)}: {describe(unit)}: expected a known checkpoint of {name}, got sha256 "
            f"{sha256 or '(none)'}, which neither the zoo nor --checkpoint has ({counts[name, sha256]} rows); "
            "give the file with --checkpoint FILE"
        )


class _Bench:
    """Loads datasets and models once and recomputes units."""

    def __init__(self, request: VerifyRequest, known: Mapping[str, Path]) -> None:
        self._request, self._known = request, known
        self._datasets: dict[str, Dataset] = {}
        self._models: dict[tuple[str, ...], NamedModel] = {}

    def compare(self, unit: Unit, recorded: Mapping[str, float]) -> tuple[float, list[str]]:
        """The largest difference in Dice between a unit's rows and what comes out now, and what is wrong."""
        from ...harness.faults import CASE_FAILURES

        try:
            return self._compare(unit, recorded)
        except UsageError:
            raise
        except CASE_FAILURES as error:
            return math.inf, [
                f"expected to compute {describe(unit)} again, got: {' '.join(str(error).split())}"
            ]

    def _compare(self, unit: Unit, recorded: Mapping[str, float]) -> tuple[float, list[str]]:
        from ...harness.bench import Bench
        from ...plan.attacks import load_attack
        from ...plan.models import choose_device
        from ...plan.plan import Job, Plan
        from ...specs.protocols import find_protocol
        from ...specs.spec import CLEAN

        dataset = self._dataset(unit.dataset)
        protocol = find_protocol(unit.protocol)
        device = choose_device(self._request.device)
        target = self._model(unit.target, unit.target_sha256, dataset, protocol, device)
        surrogate = self._model(unit.surrogate, unit.surrogate_sha256, dataset, protocol, device)
        attack = None if unit.attack == CLEAN else load_attack(unit.attack)
        plan = Plan(
            dataset=dataset,
            cases=(unit.case,),
            surrogates=(surrogate,),
            targets=(target,),
            attacks=(attack,) if attack else (),
            protocol=protocol,
            seed=unit.seed,
            device=device,
        )
        bench = Bench(plan)
        data_sha256 = bench.case(unit.case).data_sha256
        if data_sha256 != unit.data_sha256:
            return math.inf, [
                f"{describe(unit)}: expected data with sha256 {unit.data_sha256[:16]}, got {data_sha256[:16]}; this "
                "copy of the case is another one, see `python -m benchmark data`"
            ]
        job = Job(unit.case, surrogate if attack else None, attack, (target,))
        now = {score.class_name: score.dice for score in bench.scored(job, target).outcome.scores}
        tolerance = ATTACKED_TOLERANCE if attack else CLEAN_TOLERANCE
        apart = {name: distance(recorded.get(name), now.get(name)) for name in sorted({*recorded, *now})}
        return max(apart.values()), [
            f"{describe(unit)}: expected Dice {recorded.get(name)} of {name} as recorded, got {now.get(name)}, more "
            f"than {tolerance} apart"
            for name, value in apart.items()
            if value > tolerance
        ]

    def _dataset(self, name: str) -> Dataset:
        from ...plan.cases import load_dataset

        if name not in self._datasets:
            opened = load_dataset(self._request.dataset or name, self._request.data_root)
            if opened.name != name:
                raise UsageError(
                    f"expected the dataset {name} of the records, got {opened.name}; correct --dataset"
                )
            self._datasets[name] = opened
        return self._datasets[name]

    def _model(self, name: str, sha256: str, dataset: Dataset, protocol: Any, device: str) -> NamedModel:
        from ...plan.models import load_model

        key = (name, sha256, dataset.name, protocol.name)
        if key not in self._models:
            checkpoint = self._known.get(sha256)
            model = load_model(name, dataset, protocol, checkpoint=checkpoint, device=device)
            if model.sha256 != sha256:
                raise ValueError(
                    f"expected weights of {name} with sha256 {sha256[:16]}, got {model.sha256[:16]}; "
                    "give the file with --checkpoint"
                )
            self._models[key] = model
        return self._models[key]


def distance(recorded: float | None, now: float | None) -> float:
    """How far two Dice values are apart; a class that is not applicable (NaN) agrees only with itself.

    Example:
        >>> distance(0.5, 0.75), distance(float("nan"), float("nan")), distance(0.5, None)
        (0.25, 0.0, inf)
    """
    if recorded is None or now is None or math.isnan(recorded) != math.isnan(now):
        return math.inf
    return 0.0 if math.isnan(recorded) else abs(recorded - now)
