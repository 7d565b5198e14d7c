"""A submission: records, outcomes of checks, a card, and the checkpoint under its sha256, in one folder.

card.json                         who, what, under which licence, which numbers are claimed; published, it is
                                  results/cards/<sha256>.json
checkpoints/<sha256>.safetensors  of a network of the registry; others say in the card where their code is
<dataset>/records, <dataset>/checks   as a run wrote them
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ..specs.names import component
from .reading import read_bytes
from .schema import problem_of
from .sources import SOURCE
from .writing import replace_file

CARD, CHECKPOINTS, CARDS = "card.json", "checkpoints", "cards"
LONGEST = 2000
"""Letters of a field of a card."""
CLOSE = 0.0005
"""Dice; a claim is a number of the tables, rounded to three digits."""

_Said = Annotated[str, Field(min_length=1, max_length=LONGEST)]
_Dice = Annotated[float, Field(ge=0, le=1)]


class Claim(BaseModel):
    """What a model is said to reach on a dataset: clean Dice, and the worst case over the suite."""

    model_config = ConfigDict(strict=True, extra="forbid")
    clean: _Dice
    worst: _Dice


class Card(BaseModel):
    """What stands in ``card.json``; every field is asked for, "none" is an answer."""

    model_config = ConfigDict(strict=True, extra="forbid")
    title: _Said
    authors: Annotated[list[_Said], Field(min_length=1, max_length=200)]
    paper: _Said
    code: _Said
    data: _Said
    licence: _Said
    extra_training_data: _Said
    contact: _Said
    model: _Said
    sha256: _Said
    protocol: _Said
    claimed: dict[str, Claim]


Claims = Mapping[str, tuple[float, float]]
"""Dataset to clean Dice and worst case, as the records have them."""


def blank_card(model: str, sha256: str, protocol: str, claims: Claims) -> str:
    """A card to be filled in; what the records say stands in it already."""
    people = ("title", "paper", "code", "data", "licence", "extra_training_data", "contact")
    card: dict[str, Any] = {**dict.fromkeys(people, ""), "authors": []}
    card |= {"model": model, "sha256": sha256, "protocol": protocol}
    card["claimed"] = {
        name: {"clean": round(clean, 3), "worst": round(worst, 3)} for name, (clean, worst) in claims.items()
    }
    return json.dumps(card, indent=2, ensure_ascii=False) + "\n"


def card_problems(folder: Path, model: str, sha256: str, protocol: str, claims: Claims) -> Iterator[str]:
    """What is wrong with the card of a submission, and with the checkpoint that it names, one line each.

    Args:
        folder: of the submission.
        model, sha256, protocol, claims: as the records have them.
    """
    path = folder / CARD
    card = read_submitted(path)
    if isinstance(card, str):
        yield card
        return
    for what, said, recorded in (
        ("model", card.model, model), ("sha256", card.sha256, sha256), ("protocol", card.protocol, protocol),
    ):  # fmt: skip
        if said != recorded:
            yield f"{path}: expected the {what} {recorded} of the records, got {said}; correct the card"
    for name in sorted({*card.claimed, *claims}):
        said = card.claimed.get(name)
        told = (said.clean, said.worst) if said is not None else None
        wanted = claims.get(name)
        if (
            told is None
            or wanted is None
            or any(abs(a - b) > CLOSE for a, b in zip(told, wanted, strict=True))
        ):
            shown = "nothing" if wanted is None else f"clean {wanted[0]:.3f} and worst case {wanted[1]:.3f}"
            yield f"{path}: expected {shown} claimed for {name}, as the records say, got {told}; correct the card"
    for file in sorted((folder / CHECKPOINTS).glob("*.safetensors")):
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != file.stem:
            yield f"{file}: expected the sha256 as its name, got {found}; it is another checkpoint"


def read_submitted(path: Path) -> Card | str:
    """The card in a file, or what is wrong with it in a line."""
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        found = None
    problem = problem_of(Card, found, "card") if isinstance(found, dict) else "no JSON object"
    if problem:
        return f"{path}: expected every field filled in ('none' is an answer), got {problem}"
    return Card.model_validate(found)


def published_card(results: Path, sha256: str) -> Card | None:
    """What was said of a checkpoint when it was published; nothing where nobody said anything that can be read."""
    path = _place(results, sha256)
    card = read_submitted(path) if sha256 and path.is_file() else ""
    return card if isinstance(card, Card) and card.sha256 == sha256 else None


def publish_card(card: Card, results: Path) -> None:
    """Keep a card with the published results."""
    path = _place(results, card.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(card.model_dump(), indent=2, ensure_ascii=False) + "\n")


def published_problems(results: Path) -> Iterator[str]:
    """Published cards that nobody can read, or that are of another checkpoint than their name says, a line each."""
    for path in sorted((results / CARDS).glob("*.json")):
        card = read_submitted(path)
        if isinstance(card, str):
            yield card
        elif path != _place(results, card.sha256):
            yield f"{path}: expected the card of the checkpoint in its name, got that of {card.sha256}; publish it again"


def _place(results: Path, sha256: str) -> Path:
    return results / CARDS / f"{component(sha256)}.json"


def copy_run(run: Path, folder: Path) -> None:
    """A dataset of a run, into a submission: its records, its checks, and whose data they are of."""
    for part in ("records", "checks"):
        if (run / part).is_dir():
            shutil.copytree(run / part, folder / run.name / part, dirs_exist_ok=True)
    if (run / SOURCE).is_file():
        shutil.copyfile(run / SOURCE, folder / run.name / SOURCE)


def add_checkpoint(folder: Path, file: Path, sha256: str) -> None:
    """Put a checkpoint under its hash."""
    place = folder / CHECKPOINTS / f"{sha256}{file.suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_file():
        shutil.copyfile(file, place)


def write_card(folder: Path, text: str) -> None:
    """The card of a submission."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / CARD, text)


def submission_folder(out: Path, model: str) -> Path:
    """Where the submission of a model goes."""
    return out / component(model)
