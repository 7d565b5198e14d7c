"""The ``verify`` command: recompute a sample of record rows from the checkpoints and compare.

What is compared, and how closely: the hash of the case's image and label exactly, Dice per class within
:data:`~robustvox.benchmark.specs.tolerances.CLEAN_TOLERANCE` on clean images and
:data:`~robustvox.benchmark.specs.tolerances.ATTACKED_TOLERANCE` on attacked ones. Thread count and processor
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
from typing import Any

from robustvox.models import CheckpointError, read_card

from ...plan.model_text import is_architecture
from ...plan.zoo import zoo_files
from ...records.coverage import content_hash, locate, orphans, record_folders, row_problems
from ...records.provenance import devices_of
from ...records.reading import Records, load_records
from ...records.submission import CARD, card_problems
from ...records.suite import impostors
from ...records.unit import Unit
from ...show.budgets import overruns
from ...specs.entering import VerifyRequest
from ...specs.protocols import DEFAULT_PROTOCOL
from ...specs.spec import CLEAN, Spec, UsageError
from ...specs.suites import SUITES
from ..codes import DONE, SOME_FAILED
from .agreement import Recorded, one_sided
from .console import say
from .recompute import Recomputation, describe
from .standing import standing_of


def verify_records(request: VerifyRequest, echo: Callable[[str], None] = say) -> int:
    """Check every row's identity and checkpoints, then recompute a sample; 0 if all agrees, else 1.

    Raises:
        UsageError: no records there, a checkpoint that cannot be read, or a dataset that is not at hand.
    """
    known = known_checkpoints(
        (*request.checkpoints, *sorted(request.records.glob("checkpoints/*.safetensors")))
    )
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
        for text in (*orphans(folder, records), *impostors(folder, records), *overruns(folder, records)):
            echo(text)
            problems += 1
        recomputation = Recomputation(request, known)
        refused = {unit: recomputation.refusal(unit) for unit in units}
        for text in _refusals(folder, refused):
            echo(text)
            problems += 1
        chosen = drawn(records, [unit for unit in units if not refused[unit]], request.sample, request.seed)
        devices = devices_of(folder)
        above: dict[str, list[float]] = {}
        for unit in chosen:
            compared = recomputation.compare(unit, _recorded(records, unit, devices))
            echo(f"{compared.verdict}: {describe(unit)}")
            for text in compared.problems:
                echo(f"{locate(folder, unit)}: {text}")
            recomputed += compared.apart is not None
            problems += bool(compared.problems)
            above.setdefault(CLEAN if unit.attack == CLEAN else "attacked", []).extend(compared.above)
        for text in filter(None, (one_sided(attack, values) for attack, values in above.items())):
            echo(f"{folder}: {text}")
            problems += 1
    for text in _submitted(request.records):
        echo(text)
        problems += 1
    echo(f"{request.records}: {recomputed} rows recomputed, {problems} problems")
    return SOME_FAILED if problems else DONE


def _submitted(folder: Path) -> Iterator[str]:
    """What is wrong with the card of a submission and with its standing; nothing where the folder is none."""
    if not (folder / CARD).is_file():
        return
    protocol = _protocol_of(folder)
    standing = standing_of([path.parent for path in record_folders(folder)], protocol)
    yield from standing.problems
    yield from card_problems(folder, standing.model, standing.sha256, protocol, standing.claims)


def _protocol_of(folder: Path) -> str:
    """The one whose records are there; the card says it too, but might say anything."""
    found = sorted({path.name for path in folder.glob("*/records/*") if path.is_dir()})
    return next((name for name in found if name in SUITES), DEFAULT_PROTOCOL)


def known_checkpoints(files: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Checkpoint files by their sha256: the zoo, and the ones given.

    Raises:
        UsageError: if a given file is not a checkpoint.
    """
    from robustvox.models.checkpoint import file_sha256

    for path in files:
        try:
            read_card(path)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
    return {file_sha256(path): path for path in (*zoo_files(), *files)}


def units_of(records: Records) -> list[Unit]:
    """Every completed unit of the records, sorted."""
    names = [field.name for field in fields(Unit)]
    columns = [records.costs[name].tolist() for name in names]
    units = [Unit(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
    return sorted(units, key=_order)


def _order(unit: Unit) -> tuple[Any, ...]:
    return (unit.surrogate, unit.attack, unit.target, unit.case, unit.seed, unit.key)


def _recorded(records: Records, unit: Unit, devices: Mapping[str, str]) -> Recorded:
    scores: Any = records.scores[records.scores["unit"] == unit.key]
    costs: Any = records.costs
    (cost,) = costs[costs["unit"] == unit.key].to_dict("records")
    return Recorded(
        {row["class_name"]: row for row in scores.to_dict("records")},
        cost,
        devices.get(cost["provenance"], "cpu"),
    )


def drawn(records: Records, units: list[Unit], number: int, seed: int) -> list[Unit]:
    """The units to compute again: a sample, and the best cell.

    What is drawn follows from the records themselves and from ``seed``: another number in any of them draws others,
    and who hands them in does not know the seed. The best cell is the one that a ranking would show first.

    Args:
        records: that the units are of.
        units: that can be computed.
        number: of the sample; none at all for 0.
        seed: of whoever verifies.

    Returns:
        Units in order, each once.
    """
    if not number:
        return []
    sample = random.Random(f"{content_hash(records)} {seed}").sample(units, min(number, len(units)))
    return sorted({*sample, *_best_cell(records, units)}, key=_order)


def _best_cell(records: Records, units: list[Unit]) -> list[Unit]:
    """That of the model that stands first: its case with the highest Dice under the attack that leaves it least."""
    scores: Any = records.scores
    dice = scores.groupby("unit")["dice"].mean().to_dict()
    cells: dict[tuple[str, ...], dict[str, list[tuple[float, Unit]]]] = {}
    for unit in units:
        white_box = unit.attack != CLEAN and unit.surrogate_sha256 == unit.target_sha256
        if white_box and math.isfinite(dice.get(unit.key, math.nan)):
            model = (unit.protocol, unit.target, unit.target_sha256)
            cells.setdefault(model, {}).setdefault(unit.attack, []).append((dice[unit.key], unit))
    hardest = [min(by_attack.values(), key=_mean) for by_attack in cells.values()]
    first = max(hardest, key=_mean, default=[])
    return [max(first, key=lambda item: (item[0], item[1].key))[1]] if first else []


def _mean(cell: list[tuple[float, Unit]]) -> float:
    return sum(value for value, _ in cell) / len(cell)


def _unknown_checkpoints(folder: Path, units: list[Unit], known: Mapping[str, Path]) -> Iterator[str]:
    """One line per checkpoint that no file at hand has, naming its first row."""
    first: dict[tuple[str, str], Unit] = {}
    counts: dict[tuple[str, str], int] = {}
    for unit in units:
        pairs = {(unit.surrogate, unit.surrogate_sha256), (unit.target, unit.target_sha256)}
        for name, sha256 in sorted(pairs):
            # The weights of somebody's own model have no file here; they are hashed when the model is built.
            if sha256 not in known and _is_registered(name):
                first.setdefault((name, sha256), unit)
                counts[name, sha256] = counts.get((name, sha256), 0) + 1
    for (name, sha256), unit in sorted(first.items()):
        yield (
            f"{locate(folder, unit)}: {describe(unit)}: expected a known checkpoint of {name}, got sha256 "
            f"{sha256 or '(none)'}, which neither the zoo nor --checkpoint has ({counts[name, sha256]} rows); "
            "give the file with --checkpoint FILE"
        )


def _is_registered(name: str) -> bool:
    try:
        return is_architecture(Spec.parse(name).name)
    except UsageError:
        return False


def _refusals(folder: Path, refused: Mapping[Unit, str]) -> Iterator[str]:
    """One line per reason for which rows cannot be computed again, naming its first row."""
    for reason in dict.fromkeys(filter(None, refused.values())):
        mine = [unit for unit, found in refused.items() if found == reason]
        yield (f"{locate(folder, mine[0])}: {describe(mine[0])}: {reason} ({len(mine)} rows not recomputed)")
