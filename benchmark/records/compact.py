"""The compact form of records: a line per unit, and what many units share said once per file.

    {"kind":"setting","setting":"5f0c1a77","dataset":...,"attack":...,"surrogate":...,"provenance":...,"class_id":[1,2],...}
    {"kind":"data","data":"91b2c3d4","case":"hippocampus_019","data_sha256":...}
    {"kind":"unit","unit":"b145771f9772770e","setting":"5f0c1a77","data":"91b2c3d4","case":"hippocampus_019",
     "dice":[0.61,0.69],"hd95_mm":[4.1,4.0],"nsd":[0.46,0.70],"status":["ok","ok"],"linf":...,"flags":[]}
    {"kind":"failed","unit":...,"setting":...,"data":...,"case":...,"error":...}

A setting and a datum are called by the hash of what they say, and stand before the first unit that names them. So lines
of two branches can be joined in any way that keeps their order, a definition that comes twice harms nothing, and one
that was edited no longer has its name. The rows of the first form (one per class, one of cost) come out as they went
in, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .rows import OPTIONAL, SHOWN
from .schema import LINES, problem_of
from .unit import digest

SHARED = ("dataset", "attack", "surrogate", "surrogate_sha256", "target", "target_sha256", "protocol", "seed")
PER_CLASS = ("dice", "hd95_mm", "nsd", "status")
CLASSES = ("class_id", "class_name")
COSTS = ("linf", "l2", "psnr", "ssim", "forwards", "backwards", "seconds", "flags")
PROVENANCE = "provenance"
"""Of a setting, since a run writes many units; empty for units that failed, which have none."""
HASHED = 8
"""Hex digits of a name within a file."""

Row = Mapping[str, Any]


class Definitions:
    """What the lines of one file have defined so far."""

    def __init__(self) -> None:
        self._settings: dict[str, Row] = {}
        self._data: dict[str, Row] = {}

    def learn(self, line: Row) -> str:
        """Take a line that defines something; why it cannot be taken, or nothing."""
        kind = line["kind"]
        fields = (*SHARED, PROVENANCE, *CLASSES) if kind == "setting" else ("case", "data_sha256")
        content = {name: line[name] for name in fields}
        if line[kind] != _name(content):
            return (
                f"a {kind} whose name is not the hash of what it says, {_name(content)}; the line was edited"
            )
        if kind == "setting" and not _fit(content["class_id"], content["class_name"]):
            return f"class ids {content['class_id']} with the names {content['class_name']}"
        (self._settings if kind == "setting" else self._data)[line[kind]] = content
        return ""

    def expand(self, line: Row) -> tuple[list[dict[str, Any]], str]:
        """The rows of the first form that a unit or failure stands for, or why it stands for none."""
        setting, data = self._settings.get(line["setting"]), self._data.get(line["data"])
        if setting is None or data is None or data["case"] != line["case"]:
            lost = (
                f"setting {line['setting']}" if setting is None else f"data {line['data']} of {line['case']}"
            )
            return [], f"a {line['kind']} of {lost}, which no line before it defines"
        known = {"unit": line["unit"], "case": line["case"], **{name: setting[name] for name in SHARED}}
        shown = {"unit": line["unit"], **{name: known[name] for name in SHOWN}}
        closing = {**known, "data_sha256": data["data_sha256"]}
        if line["kind"] == "failed":
            return [{"kind": "failure", **closing, "error": line["error"]}], ""
        lengths = {len(line[name]) for name in PER_CLASS}
        if lengths != {len(setting["class_id"])} or lengths == {0}:
            return [], f"{sorted(lengths)} numbers for {len(setting['class_id'])} classes in a unit"
        rows = [
            {
                "kind": "score",
                **shown,
                **{name: setting[name][index] for name in CLASSES},
                **{name: line[name][index] for name in PER_CLASS},
            }
            for index in range(len(setting["class_id"]))
        ]
        cost = {name: line[name] for name in (*COSTS, *OPTIONAL) if name in line}
        return [*rows, {"kind": "cost", **closing, **cost, PROVENANCE: setting[PROVENANCE]}], ""

    def new_lines(self, block: Sequence[Row]) -> list[dict[str, Any]]:
        """The lines that say what a block of rows of the first form says, definitions first where they are new."""
        *scores, closing = block
        classes = {name: [row[name] for row in scores] for name in CLASSES}
        setting = {
            **{name: closing[name] for name in SHARED},
            PROVENANCE: closing.get(PROVENANCE, ""),
            **classes,
        }
        data = {"case": closing["case"], "data_sha256": closing["data_sha256"]}
        made: list[dict[str, Any]] = []
        for kind, content, known in (("setting", setting, self._settings), ("data", data, self._data)):
            name = _name(content)
            if known.get(name, content) != content:
                raise ValueError(
                    f"expected a hash of its own for the {kind} {content}, got that of {known[name]}"
                )
            if name not in known:
                known[name] = content
                made.append({"kind": kind, kind: name, **content})
        refers = {
            "unit": closing["unit"],
            "setting": _name(setting),
            "data": _name(data),
            "case": closing["case"],
        }
        if closing["kind"] == "failure":
            return [*made, {"kind": "failed", **refers, "error": closing["error"]}]
        numbers = {name: [row[name] for row in scores] for name in PER_CLASS}
        cost = {name: closing[name] for name in (*COSTS, *OPTIONAL) if name in closing}
        return [*made, {"kind": "unit", **refers, **numbers, **cost}]


def write_lines(lines: Iterable[Row]) -> bytes:
    """Lines as they stand in a file: without blanks, since they are many."""
    return b"".join(
        json.dumps(line, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n" for line in lines
    )


def line_problem(line: Row) -> str:
    """Why a parsed line is none of the compact form, or nothing."""
    kind = str(line.get("kind"))
    return problem_of(LINES[kind], line, f"{kind} line")


def is_compact(line: Row) -> bool:
    """Whether a line says that it is of the compact form."""
    return isinstance(line.get("kind"), str) and line["kind"] in LINES


def _name(content: Row) -> str:
    return digest(content)[:HASHED]


def _fit(ids: Sequence[int], names: Sequence[str]) -> bool:
    return len(ids) == len(names) and len(set(ids)) == len(ids)
