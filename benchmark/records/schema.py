"""What a line of records, and of the provenance beside them, may hold: types, and ranges where a number has one.

Records are text that anyone can edit. A line is validated once, when it is read or before it is written; whatever
reads it later may believe its types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

# A name may hold half of a surrogate pair, as file systems allow; pydantic's own `str` refuses that.
Text = InstanceOf[str]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Status = Literal["ok", "missing", "hallucinated", "absent"]


class Line(BaseModel):
    """Strict: no text is taken for a number; keys that are not known are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Shown(Line):
    unit: Text
    dataset: Text
    case: Text
    attack: Text
    surrogate: Text
    target: Text
    protocol: Text
    seed: int


class _Hashed(_Shown):
    surrogate_sha256: Text
    target_sha256: Text
    data_sha256: Text


class Cost(Line):
    """What crafting and scoring one unit cost, and how far the volume was moved."""

    linf: Amount | None
    l2: Amount | None
    psnr: Finite | None
    ssim: Annotated[float, Field(ge=-1, le=1.000001)] | None
    forwards: Amount | None
    backwards: Amount | None
    seconds: Amount | None
    flags: list[Text]
    asr_voxel: Share | None = None
    asr_foreground: Share | None = None
    linf_channels: Text = ""
    blind: Share | None = None
    prompts: Text = ""


class ScoreRow(_Shown):
    """Of the first form: one class of a unit."""

    class_id: Annotated[int, Field(ge=0)]
    class_name: Text
    dice: Share | None
    hd95_mm: Amount | None
    nsd: Share | None
    status: Status


class CostRow(_Hashed, Cost):
    """Of the first form: closes a unit."""

    provenance: Text


class FailureRow(_Hashed):
    """Of the first form: a unit that could not be computed."""

    error: Text


class SettingLine(Line):
    """What the units of one attack, on one surrogate and target, have in common."""

    setting: Text
    dataset: Text
    attack: Text
    surrogate: Text
    surrogate_sha256: Text
    target: Text
    target_sha256: Text
    protocol: Text
    seed: int
    provenance: Text
    class_id: list[Annotated[int, Field(ge=0)]]
    class_name: list[Text]


class DataLine(Line):
    """One case as it was loaded."""

    data: Text
    case: Text
    data_sha256: Text


class UnitLine(Cost):
    """A unit: numbers per class, in the order of its setting, and its cost."""

    unit: Text
    setting: Text
    data: Text
    case: Text
    dice: list[Share | None]
    hd95_mm: list[Amount | None]
    nsd: list[Share | None]
    status: list[Status]


class FailedLine(Line):
    """A unit that could not be computed."""

    unit: Text
    setting: Text
    data: Text
    case: Text
    error: Text


class Crossed(BaseModel):
    """The part of a provenance entry that says what its run crossed; entries of older versions lack some of it."""

    model_config = ConfigDict(strict=True, extra="allow")
    protocol: Text
    dataset: dict[Text, Any] = {}
    models: dict[Text, Text] = {}
    attacks: list[Text] = []
    surrogates: list[Text] = []
    targets: list[Text] = []
    white_box: bool = True
    cases: list[Text] | None = None
    seed: int = 0
    compute: dict[Text, Any] | None = None


class LabelLine(Line):
    """What the user calls a model in tables."""

    name: Text
    sha256: Text
    label: Text


class ProvenanceLine(Line):
    """One line of ``provenance.jsonl``."""

    id: Text
    entry: Crossed


ROWS: dict[str, type[Line]] = {"score": ScoreRow, "cost": CostRow, "failure": FailureRow}
LINES: dict[str, type[Line]] = {
    "setting": SettingLine,
    "data": DataLine,
    "unit": UnitLine,
    "failed": FailedLine,
}


def problem_of(kind: type[BaseModel], value: Mapping[str, Any], what: str) -> str:
    """Why a mapping is none of these, or nothing.

    Example:
        >>> problem_of(DataLine, {"data": "0f", "case": 1, "data_sha256": ""}, "data line")
        'case=1 in a data line'
    """
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"][:2]))
        if first["type"] == "missing":
            return f"a {what} without {name!r}"
        key = str(first["loc"][0]) if first["loc"] else ""
        return f"{key}={shown(value.get(key))} in a {what}" if key else f"no {what}"
    return ""


def shown(value: object) -> str:
    """The beginning of a value, whatever it is."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deep"
    return text if len(text) <= 80 else f"{text[:77]}..."
