"""What the lists of somebody else may hold: types and counts. Keys that are not read may hold anything."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel

CASES, CLASSES, CHANNELS = 20_000, 1_000, 64
"""More than any dataset of volumes has; a list that names more was made by mistake or in malice."""

Path = Annotated[str, Field(min_length=1)]
Images = Annotated[list[Path], Field(min_length=1, max_length=CHANNELS)]
Channels = (
    str
    | Annotated[list[str], Field(max_length=CHANNELS)]
    | Annotated[dict[str, str], Field(max_length=CHANNELS)]
)


class Document(BaseModel):
    """Strict: no number is taken for a text."""

    model_config = ConfigDict(strict=True, extra="allow")


class Case(Document):
    """An entry of a list."""

    image: Path | Images
    label: str | None = None
    fold: int | None = None


class Files(Document):
    """An entry of nnU-Net's key ``dataset``."""

    images: Images
    label: str


Cases = Annotated[list[Case], Field(max_length=CASES)]
Tested = Annotated[list[Case | str], Field(max_length=CASES)]


class Listing(Document):
    """A ``dataset.json``, a datalist, or the JSON beside a CSV."""

    labels: Annotated[dict[str, str | int | list[int]], Field(max_length=CLASSES)] | None = None
    modality: Channels | None = None
    channel_names: Channels | None = None
    channels: Channels | None = None
    training: Cases | None = None
    train: Cases | None = None
    validation: Cases | None = None
    val: Cases | None = None
    test: Tested | None = None
    testing: Tested | None = None
    dataset: Annotated[dict[str, Files], Field(max_length=CASES)] | None = None
    file_ending: str | None = None
    keep: Annotated[dict[str, str], Field(max_length=CLASSES)] | None = None
    reference: str | None = None
    licence: str | None = None
    license: str | None = None


class Fold(Document):
    """Of a ``splits_final.json``."""

    train: Annotated[list[str], Field(max_length=CASES)]
    val: Annotated[list[str], Field(max_length=CASES)]


class Splits(RootModel[Annotated[list[Fold], Field(min_length=1, max_length=1000)]]):
    """A ``splits_final.json``."""
