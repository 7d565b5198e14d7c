"""One dataset as the template wants it: every number as text in a fixed format, every link relative."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ...records.paths import records_file
from ...specs.names import component
from ..figures.labels import class_style
from ..labels import NATURAL, AttackName, attack_names, model_defence, model_family
from .board import Board, Frame
from .curves import charts
from .flags import details, explain
from .matrices import Matrix, class_matrices, transfer_matrices
from .organs import BySize, Extremes, by_size, extremes
from .pictured import COLUMNS as PANELS
from .pictured import embedded, pictured
from .ranking import Place, Ranking, rank, worst_cases
from .scatter import scatter

#: key, heading, whether it sorts as a number, explanation
COLUMNS = (
    ("model", "Model", False, "Attacked and scored network, as in the records."),
    ("attack", "Attack", False, "Short name; the whole specification is in the list of attacks below."),
    ("robust", "Robust Dice", True, "Mean foreground Dice under the attack, with 95% bootstrap interval over patients."),
    ("clean", "Clean Dice", True, "Mean foreground Dice without an attack."),
    ("drop", "Drop", True, "Clean Dice minus robust Dice."),
    ("worst", "Worst case", True, "Per case the lowest Dice of all attacks on this model at this budget, then the mean."),
    ("smallest", "Smallest organ", True, "Mean Dice of the smallest organ under the attack; which it is stands above the table."),
    ("largest", "Largest organ", True, "Mean Dice of the largest organ under the attack."),
    ("hd95_clean", "HD95 clean", True, "95th percentile Hausdorff distance in mm without an attack."),
    ("hd95", "HD95 attacked", True, "The same under the attack; an organ that is gone counts as the diagonal of the volume."),
    ("lost", "Organs gone", True, "Organs of a case of which nothing was found, over all cases; invented ones behind it."),
    ("linf", "L∞", True, "Largest measured change of a voxel, in 1/255 of the intensity range."),
    ("l2", "L2", True, "Measured Euclidean norm of the change, mean over cases."),
    ("ssim", "SSIM", True, "Structural similarity to the clean volume, mean over cases; 1 is identical."),
    ("cases", "Cases", True, "Scored cases; failed ones are counted and listed in the records."),
    ("budget", "Budget", False, "What bounds the attack. Compare only rows of the same budget."),
    ("checks", "Checks", False, "Whether the sanity checks ran on this row, and the worst of what they found; a control needs none."),
    ("flags", "Flags", False, "Reasons to doubt a row, from the run itself and from the sanity checks."),
    ("model_family", "Family", False, "Convolutional, transformer or Mamba."),
    ("defence", "Defence", False, "What the network was trained with against attacks; natural for nothing."),
    ("attack_family", "Kind", False, "Family of the attack."),
    ("protocol", "Protocol", False, "How volumes were predicted, attacked and scored."),
    ("records", "Records", False, "The file of per-case rows behind the numbers."),
)  # fmt: skip


#: filter -> its label; all but the last select equal values of a column
FILTERS = {
    "model": "Model",
    "defence": "Defence",
    "model_family": "Model family",
    "attack": "Attack",
    "attack_family": "Attack family",
    "budget": "Budget",
    "protocol": "Protocol",
    "checks": "Checks",
    "flagged": "Flags",
}


def section(board: Board) -> dict[str, Any]:
    """Everything the template shows of one dataset."""
    tables = (board.white_box, board.transfer)
    specs = Counter(attack for table in tables for attack in table["attack"].tolist())
    measured = board.white_box.groupby("attack")["linf"].max().to_dict()
    names = attack_names(specs, measured)
    sizes = extremes(board)
    rows = _rows(board, names, sizes)
    flags = sorted({flag for row in rows for flag, _, _ in row["flags"]})
    rankings = [_ranking(board, protocol) for protocol in board.protocols]
    return {
        "id": f"d-{component(board.folder)}",
        "name": board.name,
        "folder": _link(board.folder),
        "counted": _counted,
        "models": {name: (_anchor(board, name), entry) for name, entry in sorted(board.entries.items())},
        "sources": board.sources,
        "notes": board.notes,
        "facts": ", ".join(
            [
                _counted(len({row["model"] for row in rows}), "model"),
                _counted(len(names), "attack"),
                "up to " + _counted(int(max(board.white_box["n_cases"], default=0)), "case"),
            ]
        ),
        "protocols": board.protocols,
        "rankings": rankings,
        "ranked": max((r["ranked"] for r in rankings), default=0),
        "rows": rows,
        "organs": [] if sizes is None else [sizes.about("smallest"), sizes.about("largest")],
        "choices": {key: sorted({row[key] for row in rows}) for key in FILTERS},
        "charts": charts(board, names),
        "transfer": [_matrix(board, m) for m in transfer_matrices(board, names)],
        "classes": [_matrix(board, m) for m in class_matrices(board, names)],
        "attacks": sorted(names.values(), key=lambda a: (a.name, a.budget, a.label)),
        "flags": [(flag, explain(flag)) for flag in flags],
    }


def _anchor(board: Board, model: str) -> str:
    """Where the page tells of a model; nowhere where nothing is known of it."""
    return f"d-{component(board.folder)}-m-{component(model)}" if model in board.entries else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals, never a negative zero.

    Example:
        >>> fixed(0.60449, 3), fixed(-0.0001, 3), fixed(float("nan"), 3)
        ('0.604', '0.000', 'n/a')
    """
    if math.isnan(value):
        return "n/a"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _rows(board: Board, names: Mapping[str, AttackName], sizes: Extremes | None) -> list[dict[str, Any]]:
    """Rows of the table: natural models first, then a group for each defence."""
    worst, found, organs = worst_cases(board, names), details(board), by_size(board, sizes)
    rows = [
        _row(board, row, names, worst, found)
        | _sized(organs.get((row["protocol"], row["target"], row["attack"]), BySize()))
        for row in board.white_box.to_dict("records")
    ]
    return sorted(rows, key=lambda row: (row["defence"] != NATURAL, row["defence"]))


def _sized(dice: BySize) -> dict[str, str]:
    return {"smallest": fixed(dice.smallest, 3), "largest": fixed(dice.largest, 3)}


def _row(board: Board, row: Frame, names: Mapping[str, AttackName], worst: Any, found: Any) -> dict[str, Any]:
    protocol, model, attack = row["protocol"], row["target"], names[row["attack"]]
    flags = []
    for flag in filter(None, row["flags"].split(";")):
        detail = found.get((protocol, model, attack.spec, flag), "")
        flags.append((flag, flag.rpartition(":")[2], f"{explain(flag)} {detail}".strip()))
    return {
        "model": model,
        "model_family": model_family(model),
        "defence": model_defence(model),
        "attack": attack.label,
        "spec": attack.spec,
        "attack_family": attack.family,
        "budget": attack.budget,
        "protocol": protocol,
        "cases": f"{row['n_cases']}" + (f" + {row['failed']} failed" if row["failed"] else ""),
        "clean": fixed(row["dice_clean"], 3),
        "robust": fixed(row["dice_adv"], 3),
        "interval": _interval(row["dice_adv_low"], row["dice_adv_high"]),
        "drop": fixed(row["dice_clean"] - row["dice_adv"], 3),
        "worst": fixed(worst.get((protocol, model, attack.budget), math.nan), 3),
        "hd95_clean": fixed(row["hd95_clean_mm"], 1),
        "hd95": fixed(row["hd95_adv_mm"], 1),
        "lost": f"{row['missing']}" + (f" + {row['hallucinated']} invented" if row["hallucinated"] else ""),
        "linf": fixed(row["linf"] * 255, 1),
        "l2": fixed(row["l2"], 2),
        "ssim": fixed(row["ssim"], 3),
        "checks": row["checks"],
        "flags": flags,
        "flagged": "flagged" if flags else "without",
        **_records(board, protocol, model, attack.spec),
    }


def _records(board: Board, protocol: str, model: str, attack: str) -> dict[str, str]:
    """Link to the file of a model's rows, relative to the page, and its short name."""
    path = records_file(protocol, board.stored.get(model, model), attack)
    return {
        "href": _link(f"{board.folder}/records/{path}"),
        "records": f"{path.parent.name}/{path.name}",
    }


def _link(path: str) -> str:
    # A folder's name may hold bytes that are no text; no browser could follow it anyway.
    return quote(path, errors="replace")


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f}\u2013{high:.3f}"


def _ranking(board: Board, protocol: str) -> dict[str, Any]:
    ranking = rank(board, protocol)
    return {
        "id": component(protocol),
        "protocol": protocol,
        "suite": ranking.suite is not None,
        "attacks": ", ".join(row.label for row in ranking.suite.attacked) if ranking.suite else "",
        "n_cases": ranking.n_cases,
        "unranked": ranking.unranked,
        "ranked": len(ranking.places),
        "scatter": scatter(ranking.places),
        "picture": _picture(board, ranking),
        "groups": _groups(ranking.places),
    }


def _picture(board: Board, ranking: Ranking) -> dict[str, Any] | None:
    """The best and the worst model on one case: what the records say of it, and the picture of just these rows."""
    shown = pictured(board, ranking)
    if shown is None:
        return None
    data = board.pictures.get(shown.key)
    return {
        "image": embedded(data) if data is not None else None,
        "stale": data is None and bool(board.pictures),
        "case": shown.case,
        "attack": shown.label,
        "panels": PANELS,
        "rows": [
            {
                "place": row.place,
                "model": row.model,
                "clean": fixed(row.clean, 3),
                "attacked": fixed(row.attacked, 3),
                "linf": fixed(row.linf * 255, 1),
            }
            for row in shown.rows
        ],
        "classes": [(name, class_style(number)[0]) for number, name in shown.classes],
        "command": f"python -m benchmark figures --ranking --dataset {board.name} --data-root DIR",
    }


def _groups(places: Sequence[Place]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Places by defence, the group with the best place first; places count over all groups."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        groups.setdefault(place.defence, []).append(_place(place))
    return list(groups.items())


def _place(place: Place) -> dict[str, Any]:
    return {
        "place": f"{place.place}{'=' if place.tied else ''}",
        "model": place.model,
        "family": place.family,
        "clean": fixed(place.clean, 3),
        "worst": fixed(place.worst, 3),
        "interval": _interval(place.low, place.high),
        "drop": fixed(place.clean - place.worst, 3),
        "lost": str(place.lost),
        "checks": place.checks,
        "failing": ", ".join(place.failing),
        "hardest": place.hardest,
        "hardest_cases": place.hardest_cases,
        "bar": {
            key: f"{100 * value:.1f}%"
            for key, value in zip(
                ("low", "high", "worst", "clean"), (*place.bar, place.worst, place.clean), strict=True
            )
        },
    }


def _matrix(board: Board, matrix: Matrix) -> dict[str, Any]:
    return {
        "label": matrix.attack.label,
        "protocol": matrix.protocol,
        "columns": matrix.columns,
        "scale": [f"{end:.2f}" for end in matrix.scale],
        "below": any(c is not None and c.value < matrix.scale[0] for _, cells in matrix.rows for c in cells),
        "rows": [
            (
                name,
                _records(board, matrix.protocol, name, matrix.attack.spec)["href"],
                [cell and (cell, matrix.shade(cell)) for cell in cells],
            )
            for name, cells in matrix.rows
        ],
    }
