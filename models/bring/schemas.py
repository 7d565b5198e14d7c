"""What the documents of somebody else's models may hold, once and for all of them.

Only what is read here is described; everything else a document says is left alone. Texts are no numbers, and no number is
infinite.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=4096)]
Few = Annotated[int, Field(ge=1, le=4096)]


class Document(BaseModel):
    """Strict types, unknown keys allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class Metadata(Document):
    """`configs/metadata.json` of a MONAI bundle."""

    monai_version: str | None = None
    network_data_format: dict[str, Any] = {}


class Architecture(Document):
    """Of a configuration of nnU-Net."""

    network_class_name: str | None = None
    arch_kwargs: dict[str, Any] = {}
    kw_requires_import: list[str] = Field(default=[], alias="_kw_requires_import")


class Configuration(Document):
    """One configuration of nnU-Net's plans; what it inherits may be missing here."""

    inherits_from: str | None = None
    previous_stage: str | None = None
    preprocessor_name: str | None = None
    patch_size: list[Side] | None = None
    spacing: list[Positive] | None = None
    normalization_schemes: list[str] | None = None
    use_mask_for_norm: list[bool] | None = None
    architecture: Architecture | None = None
    resampling_fn_data: str | None = None
    resampling_fn_data_kwargs: dict[str, Any] | None = None
    resampling_fn_probabilities: str | None = None
    resampling_fn_probabilities_kwargs: dict[str, Any] | None = None
    n_conv_per_stage_encoder: list[Few] | None = None
    n_conv_per_stage_decoder: list[Few] | None = None
    UNet_base_num_features: Few | None = None
    unet_max_num_features: Few | None = None
    pool_op_kernel_sizes: list[list[Few]] | None = None
    conv_kernel_sizes: list[list[Few]] | None = None


class Plans(Document):
    """`plans.json` of nnU-Net v2."""

    image_reader_writer: str | None = None
    transpose_forward: list[int] | None = None
    configurations: dict[str, Configuration]
    foreground_intensity_properties_per_channel: dict[str, dict[str, Number | None]] | None = None
    foreground_intensity_properties_by_modality: dict[str, dict[str, Number | None]] | None = None


class TrainedOn(Document):
    """`dataset.json` beside the plans."""

    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None
    labels: dict[str, int | list[int] | Annotated[str, Field(pattern=r"^[0-9]{1,4}$")]]
    numTraining: int | None = None  # noqa: N815 - nnU-Net's name


class Fold(Document):
    """Of `splits_final.json`."""

    train: list[str | int]
    val: list[str | int]


class Splits(RootModel[Annotated[list[Fold], Field(max_length=1000)]]):
    """`splits_final.json`."""
