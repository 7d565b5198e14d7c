"""The best and the worst model of a ranking on one case: which rows a picture shows, and the picture of just these.

Records hold no volumes, so the picture is a small file that ``figures --ranking`` draws: ``pictures/<key>.webp`` beside
the records. Its name is a hash of the rows it shows, their Dice included. Whatever lies there under another name is of
other rows and is left out.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...records.reading import read_bytes
from ...records.unit import digest
from ...specs.matched import parse_spec
from ...specs.spec import CLEAN
from .board import Board, Frame, own
from .ranking import Ranking

FOLDER, SUFFIX = "pictures", ".webp"
LARGEST = 150_000
"""Bytes of a picture; the page of four datasets stays small."""

COLUMNS = ("Image, reference", "Prediction, clean", "Attacked image, prediction", "Change of the image")
"""What stands beside each other in a picture."""


@dataclass(frozen=True)
class Shown:
    """One row of a picture: a model, and Dice of the case on the clean and on the attacked volume."""

    model: str
    stored: str
    sha256: str
    place: int
    clean: float
    attacked: float
    linf: float


@dataclass(frozen=True)
class Pictured:
    """What a picture of a ranking shows.

    Attributes:
        attack, label: spec and short name of the attack, PGD of the suite.
        case: the one on which both models come closest to their means under it.
        seed: of the attack.
        rows: the best model and the worst.
        classes: id and name of the foreground classes.
        key: hash of the rows, and so the name of the file.
    """

    protocol: str
    attack: str
    label: str
    case: str
    seed: int
    rows: tuple[Shown, Shown]
    classes: tuple[tuple[int, str], ...]
    key: str


@dataclass(frozen=True)
class Picture:
    """A picture as the page embeds it: its address, and the pixels of one of its panels."""

    src: str
    width: int
    height: int


def pictured(board: Board, ranking: Ranking) -> Pictured | None:
    """What a picture of a ranking has to show; None for fewer than two models."""
    suite = ranking.suite
    if suite is None or len(ranking.places) < 2:
        return None
    row = next((row for row in suite.attacked if parse_spec(row.spec).name == "pgd"), None)
    if row is None:
        return None
    # The list is grouped by place: the first and the last of it.
    best, worst = ranking.places[0], ranking.places[-1]
    cases: Frame = own(board.suited)
    cases = cases[
        (cases["protocol"] == ranking.protocol) & cases["surrogate"].isin([best.model, worst.model])
    ]
    attacked, clean = cases[cases["attack"] == row.spec], cases[cases["attack"] == CLEAN]
    dice = attacked.pivot(index="case", columns="surrogate", values="dice").dropna()
    away = (dice - dice.mean()).abs().sum(axis=1)
    case = min(away.index, key=lambda name: (round(away[name], 12), name))
    both = [
        Shown(
            *(place.model, board.stored[place.model], board.sha256[place.model], place.place),
            *(_of(clean, place.model, case, "dice"), _of(attacked, place.model, case, "dice")),
            _of(attacked, place.model, case, "linf"),
        )
        for place in (best, worst)
    ]
    classes: Frame = own(board.classes)
    classes = classes[
        (classes["protocol"] == ranking.protocol)
        & (classes["case"] == case)
        & classes["attack"].isin([CLEAN, row.spec])
        & classes["surrogate"].isin([best.model, worst.model])
        & (classes["seed"] == suite.seed)
    ].sort_values(["surrogate", "attack", "unit", "class_id"])
    scores = zip(*(classes[name].tolist() for name in ("unit", "class_id", "dice")), strict=True)
    named = dict(zip(classes["class_id"].tolist(), classes["class_name"].tolist(), strict=True))
    return Pictured(
        *(ranking.protocol, row.spec, row.label, case, suite.seed),
        (both[0], both[1]),
        tuple(sorted(named.items())),
        digest({"rows": [[unit, number, None if math.isnan(d) else d] for unit, number, d in scores]}),
    )


def _of(cases: Frame, model: str, case: str, column: str) -> float:
    found: Any = cases[(cases["surrogate"] == model) & (cases["case"] == case)][column]
    return float(found.iloc[0])


def load_pictures(folder: Path) -> dict[str, bytes]:
    """The pictures of ``results/<dataset>``, by the hash of what they show."""
    found = [path for path in sorted((folder / FOLDER).glob(f"*{SUFFIX}")) if path.is_file()]
    return {path.stem: read_bytes(path) for path in found if path.stat().st_size <= LARGEST}


def embedded(data: bytes) -> Picture | None:
    """A picture as an address; None for what is no plain WebP of two rows of panels.

    Example:
        >>> embedded(b"GIF89a") is None
        True
    """
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8 " or data[23:26] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if not width or not height or width % len(COLUMNS) or height % 2:
        return None
    text = base64.b64encode(data).decode("ascii")
    return Picture(f"data:image/webp;base64,{text}", width // len(COLUMNS), height // 2)
